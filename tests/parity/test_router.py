"""Op router: selection by score plus bias, weights by score alone."""

from dataclasses import replace

import numpy as np
import pytest
from parity.probe import silence

MOE = {"sliding": (0, 0), "sparse": (1, 1)}


@pytest.mark.parametrize("top_k", [1, 3, 6])
@pytest.mark.parametrize("router_dtype", ["F32", "BF16"])
def test_router(probe, prompt, simd, top_k, router_dtype):
    tokens = prompt(40)
    p = probe(
        "flash", silence("o_proj"), tokens=tokens, **MOE, top_k=top_k, router_dtype=router_dtype
    )
    p.check(tokens, simd=simd)


@pytest.mark.parametrize("norm_topk", [True, False])
@pytest.mark.parametrize("scaling_factor", [None, 1.0, 2.5])
def test_gates(probe, prompt, norm_topk, scaling_factor):
    tokens = prompt(40)
    p = probe(
        "flash",
        silence("o_proj"),
        tokens=tokens,
        **MOE,
        norm_topk=norm_topk,
        scaling_factor=scaling_factor,
    )
    p.check(tokens)


def test_bias_selects_but_does_not_weigh(probe, prompt):
    def favour(tensors, _rng):
        for name, stored in tensors.items():
            if name.endswith("e_score_correction_bias"):
                data = np.zeros_like(stored.data)
                data[[1, 4]] = [3.0, 2.0]
                tensors[name] = replace(stored, data=data)

    tokens = prompt(40)
    p = probe("flash", silence("o_proj"), favour, tokens=tokens, **MOE)
    p.check(tokens)


def test_ties_go_to_the_lowest_index(probe, prompt, simd):
    """Experts with equal router rows but unequal weights: only the index can decide."""

    def tie(tensors, _rng):
        for name, stored in tensors.items():
            data = stored.data.copy()
            if name.endswith("mlp.gate.weight"):
                data[:] = data[2]
            elif name.endswith("e_score_correction_bias"):
                data[:] = 0.125
            else:
                continue
            tensors[name] = replace(stored, data=data)

    probe("flash", silence("o_proj"), tie, **MOE).check(prompt(40), simd=simd)
