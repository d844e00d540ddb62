"""Op draft_context: keys and values of committed rows, inside and beyond the window."""

import pytest


@pytest.mark.parametrize("length", [1, 3, 10, 11, 12, 40, 130])
def test_draft_context(probe, prompt, simd, length):
    tokens = prompt(length)
    probe("flash", tokens=tokens).check_draft(tokens, 5, 8, simd=simd)


@pytest.mark.parametrize("factor", [0.5, 1.0])
@pytest.mark.parametrize("theta", [20.0, 10_000.0])
def test_rotary_of_context_and_block(probe, prompt, factor, theta):
    tokens = prompt(70)
    draft = {"partial_rotary_factor": factor, "theta": theta, "window": 64}
    probe("flash", tokens=tokens, draft=draft).check_draft(tokens, 5, 8)


@pytest.mark.parametrize("value_scale", [0.612, 1.0, 2.0])
def test_value_scale_of_context_and_block(probe, prompt, value_scale):
    tokens = prompt(20)
    draft = {"value_scale": value_scale}
    probe("pro", tokens=tokens, draft=draft).check_draft(tokens, 5, 8)
