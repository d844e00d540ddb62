"""Op draft_fc: taps to drafter context, project then norm."""

import numpy as np
import pytest
from parity.probe import close


@pytest.mark.parametrize("taps", [(0,), (3,), (0, 3), (0, 1, 2, 3)])
def test_draft_fc(probe, prompt, simd, taps):
    tokens = prompt(25)
    p = probe("flash", draft={"taps": taps}, tokens=tokens)
    p.check_draft(tokens, 7, 8, simd=simd)


@pytest.mark.parametrize("mask", ["pt", "pt-dict", "safetensors"])
def test_mask_embedding_comes_from_the_sidecar(probe, prompt, mask):
    tokens = prompt(25)
    p = probe("flash", draft={"mask": mask}, tokens=tokens)
    p.check_draft(tokens, 7, 8)
    right = p.expected_draft(tokens, 7, 8)
    p.drafter.mask_embedding = p.reference.embedding[p.drafter.config.mask_token_id]
    assert np.abs(p.expected_draft(tokens, 7, 8) - right).max() > 0.1, "the sidecar matters"


def test_context_matters(probe, prompt):
    tokens = prompt(25)
    p = probe("flash", tokens=tokens)
    one, other = p.engine_draft(tokens, 7, 8)[0], p.engine_draft([*tokens[:-1], 3], 7, 8)[0]
    assert np.abs(one - other).max() > 1e-3
    close(one, p.expected_draft(tokens, 7, 8), "draft logits")
