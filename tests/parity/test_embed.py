"""Op embed: rows of the table, exactly."""

import numpy as np
import pytest
from parity.probe import silence


@pytest.mark.parametrize("plain", ["BF16", "F32"])
def test_embed(probe, prompt, simd, plain):
    tokens = prompt(40)
    p = probe("flash", silence("o_proj", "down_proj"), plain=plain)
    _, residuals = p.engine(tokens, simd=simd)
    rows = p.reference.embedding[tokens].astype(np.float32)
    for i in range(residuals.shape[1]):
        np.testing.assert_array_equal(residuals[:, i], rows)
