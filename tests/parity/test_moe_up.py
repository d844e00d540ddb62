"""Op moe_up: each row in each of its experts, seen through copying down projections."""

import pytest
from parity.probe import pick_down, silence

MOE = {"sliding": (0, 0), "sparse": (1, 1)}


@pytest.mark.parametrize("width", [1, 24, 56])
@pytest.mark.parametrize("rows", [1, 5, 64])
def test_moe_up(probe, prompt, simd, width, rows):
    tokens = prompt(rows)
    p = probe(
        "flash-f32", silence("o_proj"), pick_down, tokens=tokens, **MOE, moe_intermediate=width
    )
    p.check(tokens, simd=simd)


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "MXFP4"])
@pytest.mark.parametrize("hidden", [64, 160, 288])
def test_moe_up_storage(probe, prompt, simd, dtype, hidden):
    tokens = prompt(40)
    p = probe("pro", silence("o_proj"), tokens=tokens, **MOE, hidden=hidden, experts_dtype=dtype)
    p.check(tokens, simd=simd)
