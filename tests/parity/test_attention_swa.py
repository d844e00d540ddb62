"""Op attention_swa: the window counts the query itself; sinks join the denominator."""

from dataclasses import replace

import numpy as np
import pytest
from parity.probe import silence

SWA = {"sliding": (1, 1), "sparse": (0, 0)}


@pytest.mark.parametrize("window", [1, 2, 7, 16, 39, 40, 300])
@pytest.mark.parametrize("chunk", [1, 9, 64])
def test_attention_swa(probe, prompt, simd, window, chunk):
    p = probe("flash", silence("down_proj"), **SWA, window=window)
    p.check(prompt(90), simd=simd, chunk=chunk)


@pytest.mark.parametrize("sink", [-80.0, 0.0, 12.0])
def test_sinks_far_above_and_below_the_scores(probe, prompt, simd, sink):
    def edit(tensors, _rng):
        for name, stored in tensors.items():
            if name.endswith("attention_sink_bias"):
                tensors[name] = replace(stored, data=np.full_like(stored.data, sink))

    p = probe("flash-f32", silence("down_proj"), edit, **SWA)
    p.check(prompt(30), simd=simd)


def test_an_overwhelming_sink_leaves_nothing(probe, prompt):
    def edit(tensors, _rng):
        for name, stored in tensors.items():
            if name.endswith("attention_sink_bias"):
                tensors[name] = replace(stored, data=np.full_like(stored.data, 1e4))

    tokens = prompt(30)
    p = probe("flash-f32", silence("down_proj"), edit, **SWA)
    _, residuals = p.engine(tokens)
    np.testing.assert_array_equal(residuals[:, 1], p.reference.embedding[tokens])
