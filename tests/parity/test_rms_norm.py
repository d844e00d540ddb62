"""Op rms_norm: through the final norm, with every sub-layer silent."""

from dataclasses import replace

import numpy as np
import pytest
from parity.probe import silence


@pytest.mark.parametrize("eps", [1e-6, 1e-5, 0.3])
@pytest.mark.parametrize("hidden", [56, 57, 130])
def test_rms_norm(probe, prompt, simd, eps, hidden):
    # The mask token's row is almost zero, so that epsilon decides its norm.
    tokens = [*prompt(20), 161]
    p = probe("flash", silence("o_proj", "down_proj"), eps=eps, hidden=hidden)
    p.check(tokens, simd=simd)


@pytest.mark.parametrize("exponent", [-18, 18])
def test_rms_norm_of_small_and_large_rows(probe, prompt, simd, exponent):
    def scale(tensors, _rng):
        name = "model.embed_tokens.weight"
        stored = tensors[name]
        tensors[name] = replace(stored, data=np.ldexp(stored.data, exponent))

    p = probe("flash-f32", silence("o_proj", "down_proj"), scale)
    p.check(prompt(20), simd=simd)
