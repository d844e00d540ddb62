"""Whole models: logits, 64 greedy tokens and drafts of every preset with fresh weights."""

import numpy as np
import pytest
from parity.probe import close

PRESETS = ["flash", "flash-f32", "flash-transformers", "pro", "pro-fp8", "v25", "v26"]
LIMIT = 2e-3


def greedy(probe, prompt, count):
    """Engine tokens by repeated forward passes, and the reference's lead at each of them."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(probe.engine(tokens)[0][-1].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("length", "window"), [(5, 9), (60, 9), (60, 61)])
def test_logits_and_drafts(probe, prompt, simd, preset, length, window):
    tokens = prompt(length)
    p = probe(preset, tokens=tokens, window=window)
    p.check(tokens, simd=simd)
    p.check_draft(tokens, 11, 8, simd=simd)


@pytest.mark.parametrize("preset", PRESETS)
def test_greedy_tokens(probe, prompt, preset):
    start = prompt(17)
    p = probe(preset, tokens=start)
    got = greedy(p, start, 64)
    rows = p.reference.forward([*start, *got]).logits[len(start) - 1 : -1]
    best = np.sort(rows, axis=-1)
    lead = best[:, -1] - best[:, -2]
    clear = lead > 1e-3
    assert clear.sum() >= 60
    np.testing.assert_array_equal(np.array(got)[clear], rows.argmax(axis=-1)[clear])


@pytest.mark.torch
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("window", [5, 300])
def test_engine_equals_transformers(core, tmp_path, seed, window):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    import tiny
    from parity.probe import Probe
    from tiny.oracle import Transformers

    p = tiny.PRESETS["flash-f32"].but(window=window)
    tiny.write(tmp_path, p, seed)
    engine, theirs = Probe(core, tmp_path), Transformers(tmp_path, p)
    start = np.random.default_rng(seed).integers(0, p.vocab, 31).tolist()
    logits, residuals = theirs.forward(start)
    got, _ = engine.engine(start)
    close(got, logits, "logits", LIMIT)
    assert len(residuals) == len(p.sliding)
    assert greedy(engine, start, 64) == theirs.generate(start, 64)
