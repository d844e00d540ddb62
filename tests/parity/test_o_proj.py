"""Op o_proj: heads back to the residual, in each storage."""

import pytest
from parity.probe import silence


@pytest.mark.parametrize("plain", ["BF16", "F32"])
@pytest.mark.parametrize("hidden", [56, 61, 129])
def test_o_proj(probe, prompt, simd, plain, hidden):
    p = probe("flash", silence("down_proj"), plain=plain, hidden=hidden, linear="BF16")
    p.check(prompt(18), simd=simd)
