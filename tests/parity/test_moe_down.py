"""Op moe_down: expert outputs weighted and summed, in each storage and over all scales."""

from dataclasses import replace

import numpy as np
import pytest
from parity.probe import silence

MOE = {"sliding": (0, 0), "sparse": (1, 1)}


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "MXFP4"])
@pytest.mark.parametrize("width", [32, 96, 160])
def test_moe_down(probe, prompt, simd, dtype, width):
    tokens = prompt(40)
    p = probe(
        "pro", silence("o_proj"), tokens=tokens, **MOE, moe_intermediate=width, experts_dtype=dtype
    )
    p.check(tokens, simd=simd)


def test_every_nibble_and_many_scales(probe, prompt, simd):
    """Random bytes instead of quantised weights: all codes, scales over 2^-12..2^3."""

    def scramble(tensors, rng):
        for name, stored in tensors.items():
            if ".experts." in name:
                low, high = (115, 131) if name.endswith("_scale") else (0, 256)
                data = rng.integers(low, high, stored.data.shape).astype(np.uint8)
                tensors[name] = replace(stored, data=data)

    tokens = prompt(40)
    p = probe("pro", silence("o_proj"), scramble, tokens=tokens, **MOE)
    p.check(tokens, simd=simd)
