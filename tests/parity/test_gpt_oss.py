"""gpt-oss: the engine against the reference and against transformers, with fresh weights."""

import json

import numpy as np
import pytest
import tiny
from parity.probe import Probe, close
from parity.test_model import greedy

LIMIT = 2e-3
YARN_POSITIONS = tiny.gpt_oss.YARN["original_max_position_embeddings"]
PRESETS = ["gptoss", "gptoss-bf16", "gptoss-f32"]
VARIANTS = {
    "mxfp4": ("gptoss", {}),
    "mxfp4-wide": ("gptoss", {"hidden": 160, "intermediate": 96, "vocab": 211, "experts": 5}),
    "bf16": ("gptoss-bf16", {}),
    "bf16-odd": ("gptoss-bf16", {"hidden": 37, "intermediate": 13, "heads": 9, "kv_heads": 3}),
    "f32": ("gptoss-f32", {}),
    "short-window": ("gptoss", {"window": 2}),
    "long-window": ("gptoss", {"window": 300}),
    "published-clamp": ("gptoss", {"limit": 7.0}),
    "full-first": ("gptoss-f32", {"sliding": (0, 1, 1, 0, 1)}),
}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("length", "window"), [(5, 9), (60, 9), (60, 61)])
def test_logits_and_drafts(probe, prompt, simd, preset, length, window):
    tokens = prompt(length, 131)
    p = probe(preset, tokens=tokens, window=window)
    p.check(tokens, simd=simd)
    p.check_draft(tokens, 11, 8, simd=simd)


@pytest.mark.parametrize("preset", PRESETS)
def test_rows_do_not_depend_on_their_company(probe, prompt, simd, preset):
    tokens = prompt(45, 131)
    p = probe(preset)
    base = p.engine(tokens, simd=simd, threads=1)
    company = [prompt(n, 131) for n in (45, 3, 30)]
    for options in ({"chunk": 1}, {"threads": 2}, {"beside": company, "chunk": 3, "threads": 2}):
        for got, want in zip(p.engine(tokens, simd=simd, **options), base, strict=True):
            np.testing.assert_array_equal(got, want, err_msg=str(options))


def test_original_names_are_the_same_model(core, tmp_path):
    p = tiny.PRESETS["gptoss"].but(draft=None, yarn={**tiny.gpt_oss.YARN})
    tiny.write(tmp_path / "hub", p, 5)
    tiny.write(tmp_path / "original", p.but(spelling="original"), 5)
    config = json.loads((tmp_path / "original" / "config.json").read_text())
    assert "model_type" not in config
    tokens = list(range(40))
    logits = [core.debug_forward(str(tmp_path / d), tokens)["logits"] for d in ("hub", "original")]
    assert logits[0] == logits[1]


@pytest.mark.torch
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_engine_equals_transformers(core, tmp_path, seed, variant):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    from tiny.gpt_oss_oracle import TransformersGptOss

    name, changes = VARIANTS[variant]
    p = tiny.PRESETS[name].but(**changes)
    p = p.but(draft=tiny.gpt_oss.taps_of_all(p))
    tiny.write(tmp_path, p, seed)
    engine, theirs = Probe(core, tmp_path), TransformersGptOss(tmp_path)
    start = np.random.default_rng(seed).integers(0, p.vocab, 31).tolist()
    # Longer than most windows, and beyond the positions that YaRN stretches from.
    assert len(start) > YARN_POSITIONS
    logits, residuals = theirs.forward(start)
    got, states = engine.engine(start)
    close(got, logits, "logits", LIMIT)
    close(states, np.stack(residuals, axis=1), "residuals", LIMIT)
    assert greedy(engine, start, 64) == theirs.generate(start, 64)
