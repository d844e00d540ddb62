"""Op draft_embed: the anchor's row, then the sidecar's vector in every masked row."""

import numpy as np
import pytest
from parity.probe import close, silence
from tiny._reference import reference

ops = reference.ops
SILENT = [silence("o_proj", "down_proj")]


@pytest.mark.parametrize("mask", ["pt", "pt-dict", "safetensors"])
def test_masked_rows(probe, prompt, simd, mask):
    """With every layer silent a masked row is its embedding, whatever surrounds it."""
    tokens = prompt(9)
    p = probe("flash", draft={"mask": mask}, draft_edits=SILENT)
    logits, _ = p.engine_draft(tokens, 7, 8, simd=simd)
    table, vector = p.reference.embedding, p.drafter.mask_embedding
    x = ops.draft_embed(table, vector, 7, 8)
    want = ops.rms_norm(x[1:], p.drafter.norm, p.drafter.config.eps) @ p.reference.head.T
    close(logits, want, "masked rows")
    assert (logits == logits[0]).all()


def test_the_anchor_is_embedded_from_the_target(probe, prompt, simd):
    """One full layer of one head looks at the anchor; exchanging it moves both sides alike."""
    tokens = prompt(9)
    p = probe("flash", tokens=tokens, draft={"layers": 1})
    moved = [p.engine_draft(tokens, a, 8, simd=simd)[0] for a in (7, 8)]
    assert np.abs(moved[0] - moved[1]).max() > 1e-3
    for anchor, got in zip((7, 8), moved, strict=True):
        close(got, p.expected_draft(tokens, anchor, 8), f"anchor {anchor}")
