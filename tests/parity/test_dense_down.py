"""Op dense_down: activations back to the residual, in each storage."""

import pytest
from parity.probe import silence


@pytest.mark.parametrize("linear", ["F32", "BF16", "F8_E4M3"])
@pytest.mark.parametrize(("hidden", "intermediate"), [(56, 72), (140, 33), (33, 260)])
def test_dense_down(probe, prompt, simd, linear, hidden, intermediate):
    p = probe(
        "flash",
        silence("o_proj"),
        sliding=(0, 0),
        sparse=(0, 0),
        plain="F32" if linear == "F32" else "BF16",
        linear=linear,
        hidden=hidden,
        intermediate=intermediate,
    )
    p.check(prompt(33), simd=simd)
