"""Router and experts."""

from __future__ import annotations

import numpy as np

from kilotok.reference import ops
from kilotok.reference.vm.dense import activate, add_to_residual, inverse_rms
from kilotok.reference.vm.machine import Machine
from kilotok.reference.vm.records import (
    F32,
    PAIRS,
    ROUTER_SIGMOID_NORMALIZED,
    ROUTER_SOFTMAX,
    ROWS,
    STRUCTS,
    Record,
)


def router(vm: Machine, args: Record) -> None:
    """Logits of every expert."""
    experts, width = int(args["experts"]), int(args["width"])
    read = vm.memory.f32 if args["format"] == F32 else vm.memory.bf16
    weights = read(int(args["weights"]), (experts, width))
    x = vm.memory.rows_bf16(args["x"], vm.rows, width, args["x_stride"])
    logits = x @ weights.T * inverse_rms(vm, args["norm"])
    vm.memory.f32(args["logits"], (ROWS, experts))[: vm.rows] = logits


def select(vm: Machine, args: Record) -> tuple[np.ndarray, np.ndarray]:
    """Experts of every row and their weights, ``[rows, top_k]``, best first."""
    experts = int(args["experts"])
    logits = vm.memory.f32(args["logits"], (ROWS, experts))[: vm.rows]
    kind = args["router"]
    return ops.router(
        logits,
        np.eye(experts, dtype=np.float32),
        vm.memory.f32(args["router_bias"], experts),
        int(args["top_k"]),
        normalise=bool(kind == ROUTER_SIGMOID_NORMALIZED),
        scaling_factor=float(args["router_scale"]),
        softmax=bool(kind == ROUTER_SOFTMAX),
    )


def _bias(vm: Machine, address: int, expert: int, width: int) -> np.ndarray:
    if address == 0:
        return np.zeros(width, np.float32)
    return vm.memory.f32(int(address) + expert * width * 4, width)


def moe_up(vm: Machine, args: Record) -> None:
    """Choose experts, and leave each pair's activations times its weight."""
    experts, gates = select(vm, args)
    top_k, tiles = int(args["top_k"]), int(args["weights"]["tiles"])
    rms = inverse_rms(vm, args["norm"])
    routes = np.zeros((), STRUCTS["Routes"])
    for row in range(vm.rows):
        for rank in range(top_k):
            expert, gate, pair = int(experts[row, rank]), gates[row, rank], row * top_k + rank
            weights = vm.matrix(args["weights"], expert)
            x = vm.memory.bf16(int(args["x"]) + row * int(args["x_stride"]) * 2, weights.shape[1])
            y = weights @ x * rms[row] + _bias(vm, args["bias"], expert, tiles * 32)
            hidden = activate(args["activation"], y[None], int(args["out_width"])) * gate
            stride = int(args["hidden_stride"])
            vm.memory.put_bf16(int(args["hidden"]) + pair * stride * 2, stride, hidden)
            routes["expert"][pair], routes["gate"][pair] = expert, gate
    vm.memory.array(args["routes"], (), STRUCTS["Routes"])[...] = routes


def moe_down(vm: Machine, args: Record) -> None:
    """Sum the experts of every row onto the residual; pairs are weighed already."""
    routes = vm.memory.array(args["routes"], (), STRUCTS["Routes"])
    top_k, width = int(args["top_k"]), int(args["weights"]["tiles"]) * 32
    sums = np.zeros((vm.rows, width), np.float32)
    for pair in range(min(vm.rows * top_k, PAIRS)):
        expert, gate = int(routes["expert"][pair]), routes["gate"][pair]
        weights = vm.matrix(args["weights"], expert)
        at = int(args["hidden"]) + pair * int(args["hidden_stride"]) * 2
        y = weights @ vm.memory.bf16(at, weights.shape[1])
        sums[pair // top_k] += y + gate * _bias(vm, args["bias"], expert, width)
    add_to_residual(vm, args["to"], sums)
