"""Op qkv: split and fused projections in every storage and chunk layout."""

import pytest
from parity.probe import silence

LAYOUTS = {
    "split-bf16": ("flash", {}),
    "split-f32": ("flash-f32", {}),
    "split-fp8": ("flash", {"linear": "F8_E4M3"}),
    "fused-bf16": ("pro", {"linear": "BF16", "experts_dtype": "BF16"}),
    "fused-f32": ("pro", {"linear": "F32", "plain": "F32", "experts_dtype": "F32"}),
    "fused-fp8-4-chunks": ("pro", {}),
    "fused-fp8-2-chunks": ("v25", {}),
    "fused-fp8-2-column-blocks": ("v26", {"experts_dtype": "F8_E4M3"}),
    "fused-fp8-partial-blocks": ("pro", {"heads": 4, "head_dim": 60, "v_head_dim": 52}),
    "fused-fp8-one-chunk": ("pro", {"kv_heads": 1, "swa_kv_heads": 2}),
    "fused-fp8-more-swa-heads": ("pro", {"kv_heads": 2, "swa_kv_heads": 8}),
}


@pytest.mark.parametrize(("preset", "changes"), LAYOUTS.values(), ids=LAYOUTS)
def test_qkv(probe, prompt, simd, preset, changes):
    p = probe(preset, silence("down_proj"), **changes)
    p.check(prompt(21), simd=simd)
