"""Op value_scale: values scale before the cache, and nothing else does."""

import numpy as np
import pytest
from parity.probe import close, silence


@pytest.mark.parametrize("scale", [0.612, 0.707, 1.0, 3.5])
def test_value_scale(probe, prompt, simd, scale):
    p = probe("flash", silence("down_proj"), value_scale=scale)
    p.check(prompt(19), simd=simd)


def test_attention_is_linear_in_the_scale(probe, prompt):
    tokens, added = prompt(19), []
    for scale in (0.5, 2.0):
        p = probe("flash", silence("down_proj"), value_scale=scale)
        added.append(p.engine(tokens)[1][:, 0] - p.reference.embedding[tokens])
    assert np.abs(added[0]).max() > 0.1
    close(added[1], 4 * added[0], "attention of layer 0", 1e-5)
