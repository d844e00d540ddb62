"""Op kv_append: rows land at their positions, in pages and in rings, beside other sequences."""

import pytest
from parity.probe import silence


@pytest.mark.parametrize("chunk", [1, 3, 16, 40])
@pytest.mark.parametrize("window", [3, 16, 33])
def test_rings_turn_over_many_times(probe, prompt, simd, chunk, window):
    p = probe("flash", silence("down_proj"), sliding=(1, 0), sparse=(0, 0), window=window)
    p.check(prompt(300), simd=simd, chunk=chunk)


@pytest.mark.parametrize("chunk", [2, 13])
def test_sequences_keep_apart(probe, prompt, chunk):
    """Other sequences of other lengths share the pages and none of the content."""
    tokens = prompt(50)
    p = probe("pro", tokens=tokens)
    p.check(tokens, chunk=chunk, beside=[prompt(70)[::-1], prompt(20), prompt(1)])
