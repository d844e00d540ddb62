"""Op dense_up: SwiGLU activations, seen through a down projection that only copies."""

from dataclasses import replace

import numpy as np
import pytest
from parity.probe import pick_down, silence

DENSE = {"sliding": (0, 0), "sparse": (0, 0), "hidden": 90}


@pytest.mark.parametrize("intermediate", [1, 31, 64, 90])
def test_dense_up(probe, prompt, simd, intermediate):
    p = probe("flash-f32", silence("o_proj"), pick_down, **DENSE, intermediate=intermediate)
    p.check(prompt(33), simd=simd)


@pytest.mark.parametrize("linear", ["BF16", "F8_E4M3"])
def test_dense_up_storage(probe, prompt, simd, linear):
    p = probe("flash", silence("o_proj"), **{**DENSE, "hidden": 200}, linear=linear)
    p.check(prompt(33), simd=simd)


def test_large_gates_do_not_clamp_or_overflow(probe, prompt, simd):
    """No clamp at 7, and exp of a large negative gate is no NaN."""

    def scale(tensors, _rng):
        for kind, factor in (("gate", 60), ("up", 20)):
            name = f"model.layers.0.mlp.{kind}_proj.weight"
            tensors[name] = replace(tensors[name], data=tensors[name].data * np.float32(factor))

    p = probe("flash-f32", silence("o_proj"), pick_down, scale, **DENSE)
    p.check(prompt(33), simd=simd)
