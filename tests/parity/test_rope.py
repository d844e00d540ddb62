"""Op rope: partial NeoX rotation at positions far beyond one turn."""

import pytest
from parity.probe import silence


@pytest.mark.parametrize("theta", [3.0, 10_000.0, 10_000_000.0])
@pytest.mark.parametrize(("head_dim", "factor"), [(12, 0.334), (20, 0.5), (16, 1.0), (36, 0.12)])
def test_rope(probe, prompt, simd, theta, head_dim, factor):
    p = probe(
        "flash",
        silence("down_proj"),
        theta=theta,
        swa_theta=theta * 7,
        head_dim=head_dim,
        partial_rotary_factor=factor,
    )
    p.check(prompt(200), simd=simd)


def test_thetas_of_full_and_sliding_layers_are_their_own(probe, prompt):
    """Equal windows, equal weights, other theta: the two kinds must differ."""
    tokens = prompt(40)
    p = probe("flash", silence("down_proj"), theta=10.0, swa_theta=1e6, window=500)
    p.check(tokens)
