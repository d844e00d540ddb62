"""Ops draft_attention and draft_context against float64."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from program import COUNTERS, ROWS, command_of, partial_results

SLOTS = 2
EPS = np.float32(1e-5)


class Layer:
    """A drafter layer with rings full of random keys and values."""

    def __init__(
        self, rng, heads, kv_heads, dim, window=0, causal=False, sinks=False, pairs=4, chunks=1
    ):
        self.heads, self.kv_heads, self.dim = heads, kv_heads, dim
        self.window, self.causal, self.pairs, self.chunks = window, causal, pairs, chunks
        self.scale, self.value_scale = np.float32(dim**-0.5), np.float32(0.5)
        self.frequencies = 1e4 ** (-np.arange(pairs) / pairs)
        self.sinks = rng.normal(0, 2, heads).astype(np.float32) if sinks else None
        self.norms = [rng.normal(1, 0.2, dim).astype(np.float32) for _ in range(2)]
        self.positions = window - 1 + 2 * ROWS if window else 300
        shape = (SLOTS, kv_heads, self.positions, dim)
        self.keys, self.values = (oracle.to_bf16(rng.normal(0, 1, shape)) for _ in range(2))

    def common(self):
        """Fields that both ops have."""
        return {
            "keys": self.keys,
            "values": self.values,
            "k_norm": self.norms[1],
            "kv_heads": self.kv_heads,
            "dim": self.dim,
            "positions": self.positions,
            "pairs": self.pairs,
            "value_scale": self.value_scale,
            "eps": EPS,
        }

    def rotations(self, positions):
        """Of rows, with NaN behind them."""
        out = np.full((ROWS, self.pairs, 2), np.nan, np.float32)
        out[: len(positions)] = oracle.rotations(positions, self.frequencies)
        return out

    def made(self, head, norm, position):
        """A query or key as it is multiplied."""
        rotation = oracle.rotations([position], self.frequencies)[0]
        return oracle.rotate(oracle.rms_norm(head, self.norms[norm], float(EPS)), rotation)

    def draft(self, machine, rng, slot, start, rows):
        """Run a block and compare it with float64."""
        width = (self.heads + 2 * self.kv_heads) * self.dim
        qkv = np.full((ROWS, width + 4), np.nan, np.float32)
        qkv[:rows] = rng.normal(0, 1, (rows, width + 4))
        out = np.full((ROWS, self.heads * self.dim + 8), 0x7FC1, np.uint16)
        block = np.full((2, self.kv_heads, ROWS, self.dim), 0x7FC0, np.uint16)
        scratch = partial_results(self.heads, self.dim, self.chunks)
        before = self.keys.copy(), self.values.copy()
        command = command_of([(slot, start + i) for i in range(rows)])
        machine.run(
            "DRAFT_ATTENTION",
            command,
            qkv=qkv,
            block=block,
            q_norm=self.norms[0],
            rotations=self.rotations(range(start, start + rows)),
            qkv_stride=qkv.shape[1],
            causal=int(self.causal),
            scale=self.scale,
            out=out,
            sinks=self.sinks,
            scratch=scratch,
            out_stride=out.shape[1],
            heads=self.heads,
            window=self.window,
            max_chunks=self.chunks,
            **self.common(),
        )
        assert scratch is None or np.all(scratch[:COUNTERS] == 0)
        assert np.array_equal(before[0], self.keys)
        assert np.array_equal(before[1], self.values)
        got = out[:rows, : self.heads * self.dim].reshape(rows, self.heads, self.dim)
        assert np.all(out[rows:] == 0x7FC1)
        heads = qkv[:rows, :width].astype(np.float64).reshape(rows, -1, self.dim)
        self.check(slot, start, heads, block, oracle.from_bf16(got))
        return got

    def check(self, slot, start, heads, block, got):
        """Compare with float64."""
        rows, kv = len(heads), self.heads // self.kv_heads
        for i in range(rows):
            for h in range(self.kv_heads):
                key = self.made(heads[i, self.heads + h], 1, start + i)
                value = heads[i, self.heads + self.kv_heads + h] * self.value_scale
                for bits, want in ((block[0, h, i], key), (block[1, h, i], value)):
                    error = np.abs(oracle.from_bf16(bits) - want)
                    assert np.all(error <= oracle.BF16 * np.abs(want) + 1e-5)
        want, magnitude = np.empty(got.shape), np.empty(got.shape)
        for i in range(rows):
            position = start + i
            last = position if self.causal else start + rows - 1
            seen = np.arange(last + 1)
            if self.window:
                seen = seen[np.abs(seen - position) < self.window]
            old, new = seen[seen < start] % self.positions, seen[seen >= start] - start
            for head in range(self.heads):
                h = head // kv
                keys, values = (
                    oracle.from_bf16(np.concatenate([ring[slot, h, old], own[h, new]]))
                    for ring, own in ((self.keys, block[0]), (self.values, block[1]))
                )
                query = oracle.from_bf16(oracle.to_bf16(self.made(heads[i, head], 0, position)))
                sink = None if self.sinks is None else float(self.sinks[head])
                want[i, head], magnitude[i, head] = oracle.attend(
                    query, keys, values, float(self.scale), sink
                )
        oracle.check_attention(got, want, magnitude)


SHAPES = {
    "demo": (4, 2, 32, {}),
    "causal": (4, 2, 32, {"causal": True, "window": 6}),
    "narrow": (4, 2, 32, {"window": 3, "sinks": True}),
    "window": (8, 1, 128, {"window": 128, "pairs": 64, "chunks": 1}),
    "window in chunks": (8, 1, 128, {"window": 100, "pairs": 64, "chunks": 2}),
    "chunks": (12, 2, 64, {"pairs": 32, "chunks": 4, "sinks": True}),
    "largest": (3, 1, 256, {"pairs": 128, "chunks": 20}),
    "odd": (5, 1, 24, {"causal": True}),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("start", "rows"), [(0, 1), (0, 8), (1, 5), (60, 8), (250, 8), (130, 3)])
def test_equals_float64(machine, rng, name, start, rows):
    *sizes, options = SHAPES[name]
    Layer(rng, *sizes, **options).draft(machine, rng, 1, start, rows)


@pytest.mark.parametrize("blocks", [1, 7, 132])
def test_the_number_of_blocks_changes_no_bit(machine, rng, blocks):
    *sizes, options = SHAPES["chunks"]
    layer, seed = Layer(rng, *sizes, **options), 5
    first = layer.draft(machine, np.random.default_rng(seed), 0, 200, 8)
    machine.blocks = blocks
    assert np.array_equal(layer.draft(machine, np.random.default_rng(seed), 0, 200, 8), first)


@pytest.mark.parametrize("name", SHAPES)
def test_context_stands_where_the_rows_are(machine, rng, name):
    *sizes, options = SHAPES[name]
    layer = Layer(rng, *sizes, **options)
    rows = [(1, 40), (1, 41), (0, 299), (0, 300), (0, 301)]
    half = layer.kv_heads * layer.dim
    kv = np.full((ROWS, 2 * half + 4), np.nan, np.float32)
    kv[: len(rows)] = rng.normal(0, 1, (len(rows), 2 * half + 4))
    keys, values = layer.keys.copy(), layer.values.copy()
    machine.run(
        "DRAFT_CONTEXT",
        command_of(rows),
        kv=kv,
        rotations=layer.rotations([p for _, p in rows]),
        kv_stride=kv.shape[1],
        **layer.common(),
    )
    for i, (slot, position) in enumerate(rows):
        at = position % layer.positions
        heads = kv[i, : 2 * half].astype(np.float64).reshape(2, layer.kv_heads, layer.dim)
        for cache, new, want in (
            (keys, layer.keys, layer.made(heads[0], 1, position)),
            (values, layer.values, heads[1] * layer.value_scale),
        ):
            got = new[slot, :, at]
            assert np.all(np.abs(oracle.from_bf16(got) - want) <= oracle.BF16 * np.abs(want) + 1e-5)
            cache[slot, :, at] = got
    assert np.array_equal(keys, layer.keys)
    assert np.array_equal(values, layer.values)
