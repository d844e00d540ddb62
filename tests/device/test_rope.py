"""Op rope against float64: the rounded cosine and sine, but for ties that f64 cannot decide."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from program import ROWS, command_of


@pytest.mark.parametrize("pairs", [4, 32, 128])
@pytest.mark.parametrize("blocks", [1, 7])
def test_equals_float64(machine, rng, pairs, blocks):
    machine.blocks = blocks
    frequencies = 1e6 ** (-np.arange(pairs) / pairs)
    positions = [0, 1, 63, 4096, int(rng.integers(1 << 17)), 131_071, 1 << 20]
    out = np.full((ROWS, pairs, 2), np.nan, np.float32)
    machine.run(
        "ROPE",
        command_of([(0, p) for p in positions]),
        frequencies=frequencies,
        rotations=out,
        pairs=pairs,
        magnitude=np.float32(1.25),
    )
    want = oracle.rotations(positions, frequencies, 1.25)
    assert np.all(np.isnan(out[len(positions) :]))
    got = out[: len(positions)]
    assert np.abs(got - want).max() <= 2.0**-23
    assert np.mean(got == want) > 0.999
