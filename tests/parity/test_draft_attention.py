"""Op draft_attention: the block over context and itself, by every row of the mask table."""

import pytest

FULL, SLIDING = "full_attention", "sliding_attention"


@pytest.mark.parametrize("size", [2, 3, 8])
@pytest.mark.parametrize("window", [1, 4, 11, 500])
def test_draft_attention(probe, prompt, simd, size, window):
    tokens = prompt(30)
    p = probe("flash", tokens=tokens, draft={"window": window})
    p.check_draft(tokens, 5, size, simd=simd)


@pytest.mark.parametrize(
    ("layer_types", "is_causal"),
    [
        (None, None),
        (None, True),
        ((FULL, FULL), None),
        ((FULL, FULL), True),
        ((SLIDING, SLIDING), None),
        ((SLIDING, SLIDING), False),
        ((SLIDING, FULL), None),
        ((FULL, SLIDING), False),
    ],
)
def test_mask_table(probe, prompt, simd, layer_types, is_causal):
    tokens = prompt(30)
    draft = {"layer_types": layer_types, "is_causal": is_causal, "window": 6}
    probe("flash", tokens=tokens, draft=draft).check_draft(tokens, 5, 8, simd=simd)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(1, 1, 16), (6, 2, 20), (4, 4, 8), (5, 1, 128)]
)
def test_head_shapes(probe, prompt, simd, heads, kv_heads, head_dim):
    tokens = prompt(30)
    draft = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "layers": 3}
    probe("pro", tokens=tokens, draft=draft).check_draft(tokens, 5, 8, simd=simd)
