"""Ops moe_up and moe_down against the reference, in float64, over edge shapes and routes."""

from __future__ import annotations

import numpy as np
import pytest

from kilotok import _core
from kilotok.reference import ops

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
#: Largest relative error of rounding to bf16, half a unit in the last of 8 significant bits.
BF16 = 2.0**-8
#: Largest relative error of one fp32 operation; tensor cores cut off where others round.
FP32 = 2.0**-23


def to_bf16(x):
    """Round f32 to bf16 bits, ties to even."""
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bf16(bits):
    """Widen bf16 bits to f64."""
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32).astype(np.float64)


class Layer:
    """Random codes, scales over 2^-12..2^-4."""

    def __init__(self, rng, experts, size, inter):
        self.shape = (experts, size, inter)
        self.stored, self.values = {}, {}
        for name, rows, cols in (
            ("gate", inter, size),
            ("up", inter, size),
            ("down", size, inter),
        ):
            codes = rng.integers(0, 256, (experts, rows, cols // 2), np.uint8)
            scales = rng.integers(115, 124, (experts, rows, cols // 32), np.uint8)
            pairs = np.stack([codes & 15, codes >> 4], -1).reshape(experts, rows, cols)
            factor = np.exp2(scales.astype(np.float64) - 127).repeat(32, -1)
            self.stored[name] = (codes.tobytes(), scales.tobytes())
            self.values[name] = E2M1[pairs] * factor

    def batch(self, rng, rows, top_k, same=False):
        """Draw rows and their routes; ``same`` sends all rows to the same experts."""
        experts, size, _ = self.shape
        routes = [rng.permutation(experts)[:top_k] for _ in range(rows)]
        routes = np.stack([routes[0]] * rows if same else routes).astype(np.uint32)
        return {
            "x": from_bf16(to_bf16(rng.standard_normal((rows, size)))),
            "experts": routes,
            "gates": rng.random((rows, top_k), np.float32),
            "residual": rng.standard_normal((rows, size)).astype(np.float32),
        }

    def run(self, batches):
        """Run on the GPU: per batch (hidden as f64, residual f32)."""
        packed = [
            (
                b["experts"].shape[1],
                to_bf16(b["x"]).tobytes(),
                b["experts"].tobytes(),
                b["gates"].tobytes(),
                b["residual"].tobytes(),
            )
            for b in batches
        ]
        results = _core.gpu_moe(
            self.shape, *(self.stored[n] for n in ("gate", "up", "down")), packed
        )
        return [
            (
                from_bf16(np.frombuffer(hidden, np.uint16).reshape(*b["experts"].shape, -1)),
                np.frombuffer(residual, np.float32).reshape(b["residual"].shape),
            )
            for b, (hidden, residual) in zip(batches, results, strict=True)
        ]

    def check(self, b, hidden, residual):
        """Compare each element with the reference, op by op, within what rounding can do.

        Operands are exact: weights are, and x is drawn in bf16. A sum of n products that passes
        through d additions is off by at most d * FP32 * sum |products|. ``moe_up`` then rounds once
        to bf16; ``moe_down`` starts from the GPU's own hidden.
        """
        _, size, inter = self.shape
        chosen, gates = b["experts"], b["gates"].astype(np.float64)
        want = ops.moe_up(b["x"], chosen, self.values["gate"], self.values["up"])
        # 32 products within a block of K; then the steps of a warp, then the warps.
        depth = 32 + 2 * (size / 64 / 8 + 1) + 8
        gate, up = (project(b["x"], chosen, self.values[n]) for n in ("gate", "up"))
        off_gate, off_up = (
            depth * FP32 * project(np.abs(b["x"]), chosen, np.abs(self.values[n]))
            for n in ("gate", "up")
        )
        # |silu'| is below 1.1; silu itself and the product take a few operations.
        off = 1.1 * off_gate * (np.abs(up) + off_up) + np.abs(ops.silu(gate)) * off_up
        off += 8 * FP32 * np.abs(want)
        assert np.all(np.abs(hidden - want) <= BF16 * np.abs(want) + 1.01 * off)
        # Most elements are the bf16 nearest to the reference: the sums are far finer than bf16.
        assert np.mean(hidden == from_bf16(to_bf16(want))) > 0.98

        added = ops.moe_down(hidden, chosen, gates, self.values["down"])
        magnitudes = ops.moe_down(np.abs(hidden), chosen, gates, np.abs(self.values["down"]))
        depth = 32 + 2 * (inter / 64) + 8 + chosen.shape[1] + 2
        bound = FP32 * (depth * magnitudes + 2 * np.abs(b["residual"]))
        assert np.all(np.abs(residual - (b["residual"] + added)) <= bound)


def project(x, experts, weights):
    """Multiply rows [T, K] with each of their experts' [E, N, K]: [T, top_k, N]."""
    return np.stack(
        [[weights[e] @ row for e in chosen] for row, chosen in zip(x, experts, strict=True)]
    )


@pytest.fixture
def rng():
    """Return fresh random numbers; the seed is printed."""
    seed = int.from_bytes(np.random.default_rng().bytes(4), "little")
    print(f"seed {seed}")
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("experts", "size", "inter", "top_k"),
    [(1, 64, 64, 1), (5, 128, 64, 2), (12, 2880, 192, 4), (16, 1024, 320, 8), (10, 6144, 256, 8)],
)
def test_every_number_of_rows(rng, experts, size, inter, top_k):
    layer = Layer(rng, experts, size, inter)
    batches = [layer.batch(rng, rows, top_k) for rows in (1, 2, 3, 5, 7, 8)]
    batches.append(layer.batch(rng, 8, top_k, same=True))
    for batch, result in zip(batches, layer.run(batches), strict=True):
        layer.check(batch, *result)


def test_long_inner_rows_are_summed_in_slices(rng):
    layer = Layer(rng, 4, 192, 2880)
    batches = [layer.batch(rng, rows, 4) for rows in (1, 8)]
    for batch, result in zip(batches, layer.run(batches), strict=True):
        layer.check(batch, *result)


def test_a_row_has_the_same_bits_alone_and_among_others(rng):
    layer = Layer(rng, 12, 1024, 320)
    whole = layer.batch(rng, 8, 8)
    alone = [{name: values[row : row + 1] for name, values in whole.items()} for row in range(8)]
    together, *separate = layer.run([whole, *alone])
    for row, (hidden, residual) in enumerate(separate):
        assert np.array_equal(hidden[0], together[0][row])
        assert np.array_equal(residual[0], together[1][row])


def test_twenty_runs_have_the_same_bits(rng):
    layer = Layer(rng, 12, 1024, 256)
    first, *others = layer.run([layer.batch(rng, 8, 8)] * 20)
    for other in others:
        assert np.array_equal(first[0], other[0])
        assert np.array_equal(first[1], other[1])


def test_what_does_not_fit_is_refused(rng):
    layer = Layer(rng, 4, 64, 64)
    good = layer.batch(rng, 2, 2)
    with pytest.raises(ValueError, match="at most 8 rows"):
        layer.run([layer.batch(rng, 9, 2)])
    with pytest.raises(ValueError, match="16384 x 64 is more than"):
        Layer(rng, 1, 16384, 64).run([])
    with pytest.raises(ValueError, match="chose expert 4"):
        layer.run([good | {"experts": np.full((2, 2), 4, np.uint32)}])
    with pytest.raises(ValueError, match="each once"):
        layer.run([good | {"experts": np.zeros((2, 2), np.uint32)}])
    with pytest.raises(ValueError, match="gates has 2 elements, expected 4"):
        layer.run([good | {"gates": good["gates"][:1]}])
