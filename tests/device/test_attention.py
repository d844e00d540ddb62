"""Op attention against float64, and the laws about its bits."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from program import COUNTERS, ROWS, command_of, partial_results

SLOTS = 3
#: Any number that is not a power of two.
PAGE = 24


class Layer:
    """An attention layer with caches full of random keys and values."""

    def __init__(
        self, rng, heads, kv_heads, qk, v, window=0, sinks=False, pairs=4, chunks=1, length=320
    ):
        self.heads, self.kv_heads, self.qk, self.v = heads, kv_heads, qk, v
        self.window, self.pairs, self.chunks = window, pairs, chunks
        self.scale, self.value_scale = np.float32(qk**-0.5), np.float32(0.75)
        self.length = length
        self.frequencies = 1e4 ** (-np.arange(pairs) / max(pairs, 1))
        self.sinks = rng.normal(0, 2, heads).astype(np.float32) if sinks else None
        if window:
            # As short as a ring may be.
            self.positions, places, self.table = window - 1 + ROWS, SLOTS, None
        else:
            pages = -(-length // PAGE)
            self.positions, places = PAGE, SLOTS * pages + 5
            self.table = rng.permutation(places)[: SLOTS * pages].astype(np.uint32)
            self.table = self.table.reshape(SLOTS, pages)
        shape = (places, kv_heads, self.positions)
        self.keys = oracle.to_bf16(rng.normal(0, 1, (*shape, qk)))
        self.values = oracle.to_bf16(rng.normal(0, 1, (*shape, v)))
        self.width = heads * qk + kv_heads * (qk + v)
        self.stride = self.width + 4

    def copy(self):
        """The same layer with caches of its own."""
        twin = object.__new__(Layer)
        twin.__dict__ |= self.__dict__
        twin.keys, twin.values = self.keys.copy(), self.values.copy()
        return twin

    def inputs(self, rng, rows):
        """Draw queries, keys and values of ``rows``."""
        return rng.normal(0, 1, (rows, self.stride)).astype(np.float32)

    def run(self, machine, rows, qkv):
        """Run the op on ``rows`` of (slot, position)."""
        padded = np.full((ROWS, self.stride), np.nan, np.float32)
        padded[: len(rows)] = qkv
        rotations = np.full((ROWS, max(self.pairs, 1), 2), np.nan, np.float32)
        if self.pairs:
            positions = [p for _, p in rows]
            rotations[: len(rows)] = oracle.rotations(positions, self.frequencies)
        out = np.full((ROWS, self.heads * self.v + 8), 0x7FC1, np.uint16)
        scratch = partial_results(self.heads, self.v, self.chunks)
        command = command_of(rows)
        machine.run(
            "ATTENTION",
            command,
            qkv=padded,
            keys=self.keys,
            values=self.values,
            page_table=self.table,
            rotations=rotations,
            qkv_stride=self.stride,
            kv_heads=self.kv_heads,
            qk_dim=self.qk,
            positions=self.positions,
            max_pages=0 if self.table is None else self.table.shape[1],
            pairs=self.pairs,
            scale=self.scale,
            value_scale=self.value_scale,
            out=out,
            sinks=self.sinks,
            scratch=scratch,
            out_stride=out.shape[1],
            heads=self.heads,
            v_dim=self.v,
            window=self.window,
            max_chunks=self.chunks,
        )
        # Ready for the next op.
        assert scratch is None or np.all(scratch[:COUNTERS] == 0)
        assert np.all(out[:, self.heads * self.v :] == 0x7FC1)
        assert np.all(out[len(rows) :] == 0x7FC1)
        return out[: len(rows), : self.heads * self.v].reshape(len(rows), self.heads, self.v)

    def place(self, slot, position):
        """Page or ring of a position, and the place in it."""
        if self.table is None:
            return slot, position % self.positions
        return self.table[slot, position // PAGE], position % PAGE

    def check(self, rows, qkv, out, before):
        """Compare with float64, and the caches with those of the layer ``before``."""
        queries, keys, values = np.split(
            qkv[:, : self.width].astype(np.float64),
            [self.heads * self.qk, (self.heads + self.kv_heads) * self.qk],
            1,
        )
        queries = queries.reshape(len(rows), self.heads, self.qk)
        keys = keys.reshape(len(rows), self.kv_heads, self.qk)
        values = values.reshape(len(rows), self.kv_heads, self.v)
        expected = before.copy()
        want, magnitude = np.empty(out.shape), np.empty(out.shape)
        for i, (slot, position) in enumerate(rows):
            rotation = oracle.rotations([position], self.frequencies)[0]
            page, at = self.place(slot, position)
            for cache, new, size in (
                (expected.keys, oracle.rotate(keys[i], rotation), self.qk),
                (expected.values, values[i] * self.value_scale, self.v),
            ):
                got = (self.keys if cache is expected.keys else self.values)[page, :, at]
                assert got.shape == (self.kv_heads, size)
                error = np.abs(oracle.from_bf16(got) - new)
                assert np.all(error <= oracle.BF16 * np.abs(new) + 1e-6)
                cache[page, :, at] = got
        # Nothing but the rows' own places was written.
        assert np.array_equal(expected.keys, self.keys)
        assert np.array_equal(expected.values, self.values)
        for i, (slot, position) in enumerate(rows):
            rotation = oracle.rotations([position], self.frequencies)[0]
            turned = oracle.from_bf16(oracle.to_bf16(oracle.rotate(queries[i], rotation)))
            first = max(0, position + 1 - self.window) if self.window else 0
            pages, places = zip(
                *(self.place(slot, p) for p in range(first, position + 1)), strict=True
            )
            seen_keys = oracle.from_bf16(self.keys[list(pages), :, list(places)])
            seen_values = oracle.from_bf16(self.values[list(pages), :, list(places)])
            for head in range(self.heads):
                kv = head // (self.heads // self.kv_heads)
                sink = None if self.sinks is None else float(self.sinks[head])
                want[i, head], magnitude[i, head] = oracle.attend(
                    turned[head],
                    seen_keys[:, kv],
                    seen_values[:, kv],
                    float(self.scale),
                    sink,
                )
        oracle.check_attention(oracle.from_bf16(out), want, magnitude)


#: heads, kv_heads, qk, v and options, after real models and at the edges of what is possible.
SHAPES = {
    "demo": (4, 2, 48, 32, {"pairs": 8}),
    "demo window": (4, 2, 48, 32, {"pairs": 8, "window": 24, "sinks": True}),
    "gpt-oss": (16, 2, 64, 64, {"pairs": 32, "sinks": True, "chunks": 16}),
    "gpt-oss window": (16, 2, 64, 64, {"pairs": 32, "sinks": True, "window": 128}),
    "mimo": (16, 1, 192, 128, {"pairs": 32, "chunks": 128}),
    "mimo window": (16, 1, 192, 128, {"pairs": 32, "sinks": True, "window": 128}),
    "128": (8, 2, 128, 128, {"pairs": 64, "chunks": 3}),
    "largest": (3, 1, 256, 256, {"pairs": 128, "chunks": 40}),
    "odd": (5, 1, 24, 40, {"pairs": 4, "chunks": 2, "sinks": True}),
    "smallest": (1, 1, 8, 8, {"pairs": 0}),
    "wide group": (40, 1, 32, 136, {"pairs": 16, "chunks": 4}),
    "windows in chunks": (4, 2, 64, 64, {"pairs": 8, "window": 150, "chunks": 2}),
}


def shape_layer(rng, name, **changes):
    """A layer of the shape ``name``."""
    *sizes, options = SHAPES[name]
    return Layer(rng, *sizes, **(options | changes))


def rows_of(slot, position, count):
    """Rows of one slot."""
    return [(slot, position + i) for i in range(count)]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(
    "rows",
    [
        rows_of(1, 0, 1),
        rows_of(1, 0, 8),
        rows_of(2, 63, 1),
        rows_of(0, 60, 8),
        rows_of(1, 200, 3),
        rows_of(0, 5, 2) + rows_of(2, 130, 5) + rows_of(1, 64, 1),
    ],
    ids=["first", "first eight", "end of a tile", "over a tile", "far", "three slots"],
)
def test_equals_float64(machine, rng, name, rows):
    layer = shape_layer(rng, name)
    before, qkv = layer.copy(), layer.inputs(rng, len(rows))
    out = layer.run(machine, rows, qkv)
    layer.check(rows, qkv, out, before)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("start", [0, 57, 126, 190])
def test_rows_have_the_same_bits_one_after_the_other(machine, rng, name, start):
    layer = shape_layer(rng, name)
    alone, rows = layer.copy(), rows_of(1, start, 8)
    qkv = layer.inputs(rng, 8)
    together = layer.run(machine, rows, qkv)
    for i, row in enumerate(rows):
        single = alone.run(machine, [row], qkv[i : i + 1])
        assert np.array_equal(single[0], together[i]), i
    assert np.array_equal(alone.keys, layer.keys)
    assert np.array_equal(alone.values, layer.values)


@pytest.mark.parametrize("name", SHAPES)
def test_a_row_has_the_same_bits_beside_other_sequences(machine, rng, name):
    layer = shape_layer(rng, name)
    alone = layer.copy()
    rows = rows_of(2, 100, 3) + rows_of(0, 61, 4) + rows_of(1, 7, 1)
    qkv = layer.inputs(rng, len(rows))
    together = layer.run(machine, rows, qkv)
    assert np.array_equal(alone.run(machine, rows[3:7], qkv[3:7]), together[3:7])
    assert np.array_equal(alone.run(machine, rows[7:], qkv[7:]), together[7:])


@pytest.mark.parametrize("name", ["gpt-oss", "mimo", "128", "windows in chunks"])
@pytest.mark.parametrize("blocks", [1, 7, 132])
def test_the_number_of_blocks_changes_no_bit(machine, rng, name, blocks):
    layer = shape_layer(rng, name)
    twin, rows = layer.copy(), rows_of(1, 187, 8)
    qkv = layer.inputs(rng, 8)
    machine.blocks = 20
    first = layer.run(machine, rows, qkv)
    machine.blocks = blocks
    assert np.array_equal(twin.run(machine, rows, qkv), first)


@pytest.mark.parametrize("name", ["demo", "mimo window"])
def test_what_is_not_seen_does_not_matter(machine, rng, name):
    layer = shape_layer(rng, name)
    twin, rows = layer.copy(), rows_of(1, 180, 2)
    qkv = layer.inputs(rng, 2)
    seen = np.zeros(layer.keys.shape[:3], bool)
    for position in range(max(0, 181 - layer.window) if layer.window else 0, 180):
        page, at = layer.place(1, position)
        seen[page, :, at] = True
    twin.keys[~seen] = twin.values[~seen] = 0x7FC0
    assert np.array_equal(twin.run(machine, rows, qkv), layer.run(machine, rows, qkv))


@pytest.mark.parametrize("position", [0, 62, 63, 64, 127, 1000, 1023, 1090])
@pytest.mark.parametrize("name", ["gpt-oss", "gpt-oss window", "mimo", "mimo window"])
@pytest.mark.parametrize("page", [1, 7, 64, 100])
def test_contexts_and_pages(machine, rng, monkeypatch, name, position, page):
    monkeypatch.setattr("test_attention.PAGE", page)
    layer = shape_layer(rng, name, length=1100)
    before, rows = layer.copy(), rows_of(2, position, 1 + position % 2 * 7)
    qkv = layer.inputs(rng, len(rows))
    layer.check(rows, qkv, layer.run(machine, rows, qkv), before)


@pytest.mark.parametrize("blocks", [1, 40, 132])
def test_pairs_go_to_idle_blocks_without_changing_a_bit(machine, rng, blocks):
    layer = shape_layer(rng, "mimo window", length=1100)
    twin, rows = layer.copy(), rows_of(0, 190, 5) + rows_of(2, 64, 2) + rows_of(1, 3, 1)
    qkv = layer.inputs(rng, 8)
    before = layer.copy()
    machine.blocks = 4
    first = layer.run(machine, rows, qkv)
    layer.check(rows, qkv, first, before)
    machine.blocks = blocks
    assert np.array_equal(twin.run(machine, rows, qkv), first)
    assert np.array_equal(twin.keys, layer.keys)
    assert np.array_equal(twin.values, layer.values)


#: Layers with more partial results of a row than are added at a time.
LONG = {
    "all": (2, 1, 24, 136, {"pairs": 4, "chunks": 128, "length": 4200}),
    "several tiles each": (4, 2, 16, 8, {"pairs": 4, "chunks": 35, "length": 4200, "sinks": True}),
    "window": (4, 1, 16, 72, {"pairs": 4, "chunks": 50, "window": 2300}),
}


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("position", [2040, 2047, 4100])
def test_many_partial_results(machine, rng, name, position):
    *sizes, options = LONG[name]
    layer = Layer(rng, *sizes, **options)
    before, alone = layer.copy(), layer.copy()
    rows = rows_of(1, position, 6) + rows_of(0, 2090, 1) + rows_of(2, 0, 1)
    qkv = layer.inputs(rng, 8)
    machine.blocks = 132
    together = layer.run(machine, rows, qkv)
    layer.check(rows, qkv, together, before)
    machine.blocks = 3
    for i, row in enumerate(rows):
        assert np.array_equal(alone.run(machine, [row], qkv[i : i + 1])[0], together[i]), i


def test_scores_far_apart(machine, rng):
    layer = shape_layer(rng, "gpt-oss")
    layer.scale = np.float32(4)
    before, rows = layer.copy(), rows_of(0, 201, 2)
    qkv = layer.inputs(rng, 2)
    layer.check(rows, qkv, layer.run(machine, rows, qkv), before)
