"""Op embed: rows of the table, exactly."""

import numpy as np
import pytest
from parity.probe import silence


@pytest.mark.parametrize("plain", ["BF16", "F32"])
def test_embed(probe, prompt, simd, plain):
    tokens = prompt(40)
    p = probe("flash", silence("o_proj", "down_proj"), plain=plain)
    _, residuals = p.engine(tokens, simd=simd)
    np.testing.assert_array_equal(residuals, p.expected(tokens)[1].astype(np.float32))
