"""Ops over every row: embedding, rotations, matrices, and the residual stream."""

from __future__ import annotations

import numpy as np

from kilotok.reference import ops
from kilotok.reference.vm.machine import Machine
from kilotok.reference.vm.records import (
    MASK_TOKEN,
    ROWS,
    SILU,
    STORE_F32,
    STORE_RESIDUAL,
    Record,
)


def inverse_rms(vm: Machine, norm: Record) -> np.ndarray:
    """Factor of every row by which a norm divides outputs, ``[rows, 1]``; 1 where there is none."""
    if norm["squares"] == 0:
        return np.ones((vm.rows, 1), np.float32)
    squares = vm.memory.f32(norm["squares"], (int(norm["parts"]), ROWS))[:, : vm.rows]
    mean = squares.sum(axis=0) / norm["width"] + norm["eps"]
    return (1 / np.sqrt(mean))[:, None]


def add_to_residual(vm: Machine, to: Record, values: Record) -> None:
    """Write ``residual (+)= values`` and what the next norm and the drafter need of it.

    values : [rows, width], the width being whole tiles of 32.
    """
    rows, width = values.shape
    if to["fresh"] == 0:
        old = vm.memory.rows_f32(to["residual"], rows, width, to["stride"])
        values = old + values
    vm.memory.put_f32(to["residual"], to["stride"], values)
    weight = vm.memory.f32(to["norm_weight"], width)
    vm.memory.put_bf16(to["x"], to["x_stride"], values * weight)
    if to["tap"] != 0:
        vm.memory.put_bf16(to["tap"], to["tap_stride"], values)
    squares = np.square(values).reshape(rows, -1, 32).sum(axis=-1)
    vm.memory.f32(to["squares"], (width // 32, ROWS))[:, :rows] = squares.T


def activate(activation: Record, y: np.ndarray, width: int) -> np.ndarray:
    """Join tiles of 16 gates above 16 ups ``[rows, tiles * 32]`` to ``[rows, width]``."""
    tiles = y.reshape(y.shape[0], -1, 2, 16)
    gate, up = (tiles[:, :, i].reshape(y.shape[0], -1)[:, :width] for i in range(2))
    if activation["kind"] == SILU:
        return ops.silu_mul(gate, up)
    return ops.clamped_swiglu(gate, up, activation["alpha"], activation["limit"])


def embed(vm: Machine, args: Record) -> None:
    """Rows of the embedding, or the mask embedding."""
    width = int(args["width"])
    values = np.zeros((vm.rows, int(args["tiles"]) * 32), np.float32)
    for row, token in enumerate(vm.pass_["token"]):
        if token == MASK_TOKEN:
            values[row, :width] = vm.memory.f32(args["mask"], width)
        else:
            at = int(args["embedding"]) + int(token) * width * 2
            values[row, :width] = vm.memory.bf16(at, width)
    add_to_residual(vm, args["to"], values)


def rope(vm: Machine, args: Record) -> None:
    """Cosines and sines of the rows' positions, in float64."""
    pairs = int(args["pairs"])
    frequencies = vm.memory.array(args["frequencies"], pairs, np.float64)
    angles = vm.pass_["position"].astype(np.float64)[:, None] * frequencies
    turned = np.stack([np.cos(angles), np.sin(angles)], axis=-1) * float(args["magnitude"])
    vm.memory.f32(args["rotations"], (ROWS, pairs, 2))[: vm.rows] = turned


def linear(vm: Machine, args: Record) -> None:
    """Multiply by a matrix; ``store`` says where the product goes."""
    weights = vm.matrix(args["weights"])
    x = vm.memory.rows_bf16(args["x"], vm.rows, weights.shape[1], args["x_stride"])
    y = x @ weights.T * inverse_rms(vm, args["norm"])
    if args["bias"] != 0:
        y = y + vm.memory.f32(args["bias"], weights.shape[0])
    width = int(args["out_width"])
    if args["store"] == STORE_RESIDUAL:
        add_to_residual(vm, args["to"], y)
    elif args["store"] == STORE_F32:
        vm.memory.put_f32(args["out"], args["out_stride"], y[:, :width])
    else:
        hidden = activate(args["activation"], y, width)
        vm.memory.put_bf16(args["out"], args["out_stride"], hidden)
