"""The reference against ``transformers``, live, on random checkpoints with odd sizes."""

import numpy as np
import pytest
import tiny
from tiny._reference import reference

pytestmark = pytest.mark.torch
pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

VARIANTS = {
    "short-window": {"window": 5},
    "window-one": {"window": 1},
    "long-window": {"window": 300},
    "f32": {"plain": "F32", "linear": "F32", "experts_dtype": "F32"},
    "more-layers": {"sliding": (0, 1, 1, 1, 0, 1), "sparse": (0, 1, 0, 1, 1, 1)},
    "one-kv-head": {"kv_heads": 1, "swa_kv_heads": 2, "heads": 6, "head_dim": 30, "v_head_dim": 17},
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("seed", [11, 12, 13])
def test_logits_residuals_and_greedy_tokens(tmp_path, changes, seed):
    from tiny.oracle import Transformers

    p = tiny.PRESETS["flash"].but(draft=None, **changes)
    tiny.write(tmp_path, p, seed)
    theirs, ours = Transformers(tmp_path, p), reference.Mimo(tmp_path)
    prompt = np.random.default_rng(seed).integers(0, p.vocab, 37).tolist()
    logits, residuals = theirs.forward(prompt)
    forward = ours.forward(prompt)
    for mine, other in zip(forward.residuals, residuals, strict=True):
        np.testing.assert_allclose(mine, other, rtol=0, atol=1e-4 * np.abs(other).max())
    np.testing.assert_allclose(forward.logits, logits, rtol=0, atol=2e-4 * np.abs(logits).max())
    assert ours.generate(prompt, 64) == theirs.generate(prompt, 64)


def test_reads_what_transformers_saves(tmp_path):
    from tiny.oracle import Transformers

    p = tiny.PRESETS["flash-transformers"]
    tiny.write(tmp_path / "a", p, 21)
    theirs = Transformers(tmp_path / "a", p)
    theirs.model.save_pretrained(tmp_path / "b")
    prompt = list(range(5, 40))
    want = theirs.forward(prompt)[0]
    got = reference.Mimo(tmp_path / "b").forward(prompt).logits
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-4 * np.abs(want).max())
