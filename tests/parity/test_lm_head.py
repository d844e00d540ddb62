"""Op lm_head: every row's logits, for vocabularies that divide nothing."""

import pytest
from parity.probe import silence


@pytest.mark.parametrize("plain", ["BF16", "F32"])
@pytest.mark.parametrize("vocab", [151, 256, 1009])
@pytest.mark.parametrize("rows", [1, 3, 64, 65])
def test_lm_head(probe, prompt, simd, plain, vocab, rows):
    p = probe("flash", silence("o_proj", "down_proj"), plain=plain, vocab=vocab)
    p.check(prompt(rows, vocab), simd=simd)
