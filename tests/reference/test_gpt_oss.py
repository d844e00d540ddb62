"""The gpt-oss reference against ``transformers``, live, and laws of what it adds."""

import math

import numpy as np
import pytest
import tiny
from tiny._reference import reference

ops = reference.ops
YARN = ops.Yarn(factor=32.0, original=4096, truncate=False, attention_factor=0.1 * math.log(32) + 1)
VARIANTS = {
    "mxfp4": ("gptoss", {}),
    "bf16": ("gptoss-bf16", {}),
    "f32": ("gptoss-f32", {}),
    "short-window": ("gptoss-f32", {"window": 2}),
    "long-window": ("gptoss-f32", {"window": 300}),
}


@pytest.mark.torch
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seed", [11, 12])
def test_logits_residuals_and_greedy_tokens(tmp_path, variant, seed):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    from tiny.gpt_oss_oracle import TransformersGptOss

    name, changes = VARIANTS[variant]
    p = tiny.PRESETS[name].but(draft=None, **changes)
    tiny.write(tmp_path, p, seed)
    theirs, ours = TransformersGptOss(tmp_path), reference.open_target(tmp_path)
    prompt = np.random.default_rng(seed).integers(0, p.vocab, 37).tolist()
    logits, residuals = theirs.forward(prompt)
    forward = ours.forward(prompt)
    for mine, other in zip(forward.residuals, residuals, strict=True):
        np.testing.assert_allclose(mine, other, rtol=0, atol=1e-4 * np.abs(other).max())
    np.testing.assert_allclose(forward.logits, logits, rtol=0, atol=2e-4 * np.abs(logits).max())
    assert ours.generate(prompt, 64) == theirs.generate(prompt, 64)


@pytest.mark.torch
@pytest.mark.parametrize("truncate", [False, True])
def test_yarn_frequencies_are_those_of_transformers(truncate):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = transformers.GptOssConfig()
    config.rope_parameters = {
        **config.rope_parameters,
        "rope_theta": 150000.0,
        "truncate": truncate,
    }
    theirs, factor = ROPE_INIT_FUNCTIONS["yarn"](config, "cpu")
    plain = 150000.0 ** (-np.arange(32) / 32)
    yarn = ops.Yarn(32.0, 4096, 32.0, 1.0, truncate, YARN.attention_factor)
    np.testing.assert_allclose(yarn.frequencies(plain, 150000.0), theirs.numpy(), rtol=1e-5)
    assert abs(factor - yarn.attention_factor) < 1e-7


def test_stretched_pairs_keep_scores_a_function_of_distance():
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 1, 1, 64))
    at = [
        ops.rope(q, np.array([p + 40]), 150000.0, 64, YARN)[0, 0]
        @ ops.rope(k, np.array([p]), 150000.0, 64, YARN)[0, 0]
        for p in (0, 1000, 100_000)
    ]
    np.testing.assert_allclose(at, at[0], rtol=1e-9)
    # Both sides are longer by the attention factor.
    lengths = np.linalg.norm(ops.rope(q, np.array([9]), 150000.0, 64, YARN)) / np.linalg.norm(q)
    assert abs(lengths - YARN.attention_factor) < 1e-12


def test_clamped_swiglu_is_linear_in_up_and_saturates():
    gate, up = np.array([-30.0, 0.0, 3.0, 9.0]), np.array([2.0, 5.0, -9.0, 9.0])
    got = ops.clamped_swiglu(gate, up)
    np.testing.assert_allclose(got[1], 0)
    np.testing.assert_allclose(got[2], 3 * ops.sigmoid(np.array(1.702 * 3)) * -6)
    np.testing.assert_allclose(got[3], 7 * ops.sigmoid(np.array(1.702 * 7)) * 8)
    assert abs(got[0]) < 1e-15
