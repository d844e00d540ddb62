"""The rules of a run: biases, penalties, temperature, and what its filters keep."""

from __future__ import annotations

import numpy as np

from kilotok.reference import ops
from kilotok.reference.vm.machine import Machine
from kilotok.reference.vm.records import (
    IN_PROMPT,
    ROWS,
    RULE_BIAS,
    RULE_FILTERS,
    RULE_PENALTIES,
    STRUCTS,
    Record,
)


def _slot(vm: Machine, address: int, args: Record, slot: int, dtype: str) -> np.ndarray:
    """One slot's row of a table."""
    return vm.memory.array(address, (slot + 1, args["stride"]), dtype)[-1, : args["vocab"]]


def _penalise(vm: Machine, args: Record, row: int, run: Record, logits: np.ndarray) -> None:
    words = _slot(vm, args["counts"], args, int(vm.pass_["slot"][row]), "<u4")
    counts = (words & ~np.uint32(IN_PROMPT)).astype(np.int64)
    if vm.command["num_runs"] == 1:
        np.add.at(counts, vm.pass_["token"][1 : row + 1].astype(np.int64), 1)
    seen = (words >= IN_PROMPT) | (counts > 0)
    repetition = run["repetition"]
    with np.errstate(over="ignore"):
        logits[seen] = np.where(logits > 0, logits / repetition, logits * repetition)[seen]
    often = run["presence"] + run["frequency"] * counts.astype(np.float32)
    logits[counts > 0] -= often[counts > 0]


def adjust(vm: Machine, args: Record) -> None:
    """Apply biases, penalties and temperature in place; the largest value of each block's share."""
    vocab = int(args["vocab"])
    fours = -(-vocab // 4)
    share = 4 * -(-fours // vm.blocks)
    peaks = vm.memory.array(args["peaks"], (vm.blocks, ROWS), "<f4")
    all_logits = vm.memory.array(args["logits"], (vm.rows, args["stride"]), "<f4")
    for row in range(vm.rows):
        run = vm.command["run"][vm.pass_["run"][row]]
        if run["rules"] == 0:
            continue
        logits = all_logits[row, :vocab]
        if run["rules"] & RULE_BIAS:
            logits += _slot(vm, args["biases"], args, int(vm.pass_["slot"][row]), "<f4")
        if run["rules"] & RULE_PENALTIES:
            _penalise(vm, args, row, run, logits)
        if run["temperature"] != 0:
            logits /= run["temperature"]
        for block in range(vm.blocks):
            part = logits[block * share : (block + 1) * share]
            peaks[block, row] = np.max(part, initial=-np.inf) + np.float32(0)


def filter(vm: Machine, args: Record) -> None:
    """Leave the value and the token of the last one that a run's filters keep."""
    scaled = vm.memory.rows_f32(args["scaled"], vm.rows, int(args["vocab"]), args["stride"])
    kept = vm.memory.array(args["kept"], (ROWS,), STRUCTS["Choice"])
    for row, values in enumerate(scaled):
        run = vm.command["run"][vm.pass_["run"][row]]
        if run["rules"] & RULE_FILTERS:
            fields = {name: run[name].item() for name in ("top_k", "top_p", "min_p")}
            last = int(ops.kept_tokens(values, ops.Sampling(temperature=1.0, **fields))[-1])
            kept[row] = (values[last], last)
