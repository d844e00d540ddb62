"""Attention over caches, in one piece: partial results are the device's own business."""

from __future__ import annotations

import numpy as np

from kilotok.reference import formats, ops
from kilotok.reference.vm.machine import Machine
from kilotok.reference.vm.memory import Cache
from kilotok.reference.vm.records import ROWS, Record


def _rounded(values: np.ndarray) -> np.ndarray:
    return formats.decode_bf16(formats.encode_bf16(values))


def _rotated(heads: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    """Turn pairs ``(i, i + pairs)`` of ``[rows, heads, dim]`` by ``[rows, pairs, 2]``."""
    pairs = rotations.shape[1]
    cos, sin = rotations[:, None, :, 0], rotations[:, None, :, 1]
    a, b, rest = heads[..., :pairs], heads[..., pairs : 2 * pairs], heads[..., 2 * pairs :]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


def _rotations(vm: Machine, args: Record) -> np.ndarray:
    return vm.memory.f32(args["rotations"], (ROWS, int(args["pairs"]), 2))[: vm.rows]


def _split(
    vm: Machine, address: int, stride: int, shapes: list[tuple[int, int]]
) -> list[np.ndarray]:
    """Rows of several runs of heads, one ``[rows, heads, dim]`` array for each run."""
    width = sum(heads * dim for heads, dim in shapes)
    row = vm.memory.rows_f32(address, vm.rows, width, stride)
    parts = np.split(row, np.cumsum([heads * dim for heads, dim in shapes])[:-1], axis=1)
    return [p.reshape(vm.rows, *shape) for p, shape in zip(parts, shapes, strict=True)]


def _sinks(vm: Machine, args: Record) -> np.ndarray | None:
    return vm.memory.f32(args["sinks"], int(args["heads"])) if args["sinks"] != 0 else None


def _attend(
    args: Record,
    query: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    sinks: np.ndarray | None,
) -> np.ndarray:
    """One query ``[heads, dim]`` over keys and values ``[n, kv_heads, dim]`` that it all sees."""
    # The reference scales by the dimension; the record has a scale of its own.
    scale = np.float32(float(args["scale"]) * np.sqrt(query.shape[-1]))
    visible = np.ones((1, len(keys)), bool)
    return ops.masked_attention(_rounded(query)[None] * scale, keys, values, visible, sinks)[0]


def attention(vm: Machine, args: Record) -> None:
    """Rotate, write the rows' keys and values into the cache, attend causally."""
    heads, kv_heads, positions = (int(args[n]) for n in ("heads", "kv_heads", "positions"))
    qk, v = int(args["qk_dim"]), int(args["v_dim"])
    keys = Cache(vm.memory, args["keys"], kv_heads, positions, qk)
    values = Cache(vm.memory, args["values"], kv_heads, positions, v)

    def blocks(slot: int, at: np.ndarray) -> np.ndarray:
        """Page, or slot of a ring, of every position."""
        if args["page_table"] == 0:
            return np.full(len(at), slot)
        first = int(args["page_table"]) + slot * int(args["max_pages"]) * 4
        return vm.memory.array(first, int(args["max_pages"]), np.uint32)[at // positions]

    query, key, value = _split(
        vm, args["qkv"], args["qkv_stride"], [(heads, qk), (kv_heads, qk), (kv_heads, v)]
    )
    rotations = _rotations(vm, args)
    query, key = _rotated(query, rotations), _rotated(key, rotations)
    value = ops.value_scale(value, args["value_scale"])
    for row, (slot, position) in enumerate(vm.pass_[["slot", "position"]].tolist()):
        block = int(blocks(slot, np.array([position]))[0])
        keys.put(block, position % positions, key[row])
        values.put(block, position % positions, value[row])
    out = []
    for row, (slot, position) in enumerate(vm.pass_[["slot", "position"]].tolist()):
        start = max(0, position + 1 - int(args["window"])) if args["window"] else 0
        seen = np.arange(start, position + 1)
        where, at = blocks(slot, seen), seen % positions
        k, v_ = keys.get(where, at), values.get(where, at)
        out.append(_attend(args, query[row], k, v_, _sinks(vm, args)))
    vm.memory.put_bf16(args["out"], args["out_stride"], np.stack(out))


def draft_context(vm: Machine, args: Record) -> None:
    """Keys and values of the pass's rows into the rings of a drafter layer."""
    kv_heads, dim, positions = (int(args[n]) for n in ("kv_heads", "dim", "positions"))
    key, value = _split(vm, args["kv"], args["kv_stride"], [(kv_heads, dim), (kv_heads, dim)])
    key = ops.rms_norm(key, vm.memory.f32(args["k_norm"], dim), args["eps"])
    key = _rotated(key, _rotations(vm, args))
    value = ops.value_scale(value, args["value_scale"])
    keys = Cache(vm.memory, args["keys"], kv_heads, positions, dim)
    values = Cache(vm.memory, args["values"], kv_heads, positions, dim)
    for row, (slot, position) in enumerate(vm.pass_[["slot", "position"]].tolist()):
        keys.put(slot, position % positions, key[row])
        values.put(slot, position % positions, value[row])


def draft_attention(vm: Machine, args: Record) -> None:
    """Attention of a drafter block over its slot's context and itself."""
    heads, kv_heads, dim = (int(args[n]) for n in ("heads", "kv_heads", "dim"))
    positions, rows = int(args["positions"]), vm.rows
    query, key, value = _split(
        vm, args["qkv"], args["qkv_stride"], [(heads, dim), (kv_heads, dim), (kv_heads, dim)]
    )
    rotations = _rotations(vm, args)
    norms = [vm.memory.f32(args[name], dim) for name in ("q_norm", "k_norm")]
    query = _rotated(ops.rms_norm(query, norms[0], args["eps"]), rotations)
    key = _rounded(_rotated(ops.rms_norm(key, norms[1], args["eps"]), rotations))
    value = _rounded(ops.value_scale(value, args["value_scale"]))
    slot, start = int(vm.pass_["slot"][0]), int(vm.pass_["position"][0])
    window = int(args["window"]) or None
    context = np.arange(max(0, start - window + 1) if window else 0, start)
    where, at = np.full(len(context), slot), context % positions
    keys = Cache(vm.memory, args["keys"], kv_heads, positions, dim).get(where, at)
    values = Cache(vm.memory, args["values"], kv_heads, positions, dim).get(where, at)
    own = start + np.arange(rows)
    visible = ops.draft_visible(
        own, np.concatenate([context, own]), start, window, bool(args["causal"])
    )
    keys, values = np.concatenate([keys, key]), np.concatenate([values, value])
    out = [
        _attend(args, query[row], keys[seen], values[seen], _sinks(vm, args))
        for row, seen in enumerate(visible)
    ]
    vm.memory.put_bf16(args["out"], args["out_stride"], np.stack(out))
