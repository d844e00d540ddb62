"""Choosing tokens, and the rows of a round."""

from __future__ import annotations

import numpy as np

from kilotok.reference import ops
from kilotok.reference.vm.machine import Machine, Round
from kilotok.reference.vm.records import (
    FLAG_DRAFT,
    MASK_TOKEN,
    NO_TOKEN,
    ROWS,
    RULE_FILTERS,
    RULE_PENALTIES,
    STRUCTS,
    Record,
)

STOPPED, LENGTH = 1, 2


def _choices(vm: Machine, address: int) -> np.ndarray:
    """Every block's choice of every row, ``[blocks, 8]``."""
    return vm.memory.array(address, (vm.blocks, ROWS), STRUCTS["Choice"])


def chosen(vm: Machine, address: int, row: int) -> int:
    """The best of all blocks' choices, the lower token on ties."""
    mine = _choices(vm, address)[:, row]
    return int(mine["token"][np.argmax(mine["score"])])


def _choose(vm: Machine, args: Record, is_target: bool) -> None:
    vocab = int(args["vocab"])
    share = -(-vocab // vm.blocks)
    logits = vm.memory.rows_f32(args["logits"], vm.rows, vocab, args["stride"])
    best = _choices(vm, args["best"])
    for row, scores in enumerate(logits):
        run = vm.command["run"][vm.pass_["run"][row]]
        rules = run["rules"] if is_target and vm.command["num_runs"] > 0 else 0
        values = scores
        if is_target and vm.command["num_runs"] > 0 and run["temperature"] != 0:
            position = int(vm.pass_["position"][row]) + 1
            noise = ops.gumbel(int(run["seed"]), position, vocab)
            # Runs with rules were divided already.
            scores = (scores if rules else scores / run["temperature"]) + noise
        if rules & RULE_FILTERS:
            last = vm.memory.array(args["kept"], (ROWS,), STRUCTS["Choice"])[row]
            tied = (values == last["score"]) & (np.arange(vocab) <= last["token"])
            scores = np.where((values > last["score"]) | tied, scores, np.float32(-np.inf))
        for block in range(vm.blocks):
            part = scores[block * share : (block + 1) * share]
            if part.size == 0 or np.all(part == -np.inf):
                best[block, row] = (-np.inf, NO_TOKEN)
            else:
                top = int(np.argmax(part))
                best[block, row] = (part[top], block * share + top)


def choose(vm: Machine, args: Record) -> None:
    """The target's choices, greedy or with the noise of each row's run."""
    _choose(vm, args, is_target=True)


def draft_choose(vm: Machine, args: Record) -> None:
    """The drafter's choices, greedy."""
    _choose(vm, args, is_target=False)


def lay_out(vm: Machine, args: Record) -> None:
    """The rows of a round from its runs: the drafter's, or the target's."""
    command = vm.command
    runs = command["run"][: command["num_runs"]]
    rows = []
    for i, run in enumerate(runs):
        slot, position = int(run["slot"]), int(run["position"])
        rows.append((slot, position, int(run["anchor"]), i))
        if args["is_draft"]:
            rows += [(slot, position + r, MASK_TOKEN, i) for r in range(1, int(args["rows"]))]
        elif len(runs) == 1 and not command["skip"] & FLAG_DRAFT:
            most = min(max(int(args["rows"]) - 1, 0), int(run["remaining"]) - 1)
            for r in range(1, 1 + min(int(run["drafts"]), most)):
                rows.append((slot, position + r, chosen(vm, args["best"], r), i))
    if rows:
        vm.set_rows(rows)


def accept(vm: Machine, args: Record) -> None:
    """Keep drafts as far as they are the target's choices, and advance the runs."""
    command = vm.command
    rows = vm.pass_.copy()
    for i in range(int(command["num_runs"])):
        run = command["run"][i]
        mine = np.flatnonzero(rows["run"] == i)
        tokens = [chosen(vm, args["best"], int(row)) for row in mine]
        drafted = [int(token) for token in rows["token"][mine[1:]]]
        tokens = tokens[: ops.accept(drafted, tokens) + 1]
        stops, ended = set(run["stops"][: run["num_stops"]].tolist()), 0
        for count, token in enumerate(tokens, start=1):
            if token in stops:
                ended = STOPPED
            elif count == run["remaining"]:
                ended = LENGTH
            if ended:
                tokens = tokens[:count]
                break
        run["position"] += len(tokens)
        run["remaining"] -= len(tokens)
        run["anchor"], run["ended"] = tokens[-1], ended
        if run["rules"] & RULE_PENALTIES:
            counts = vm.memory.array(args["counts"], (int(run["slot"]) + 1, args["stride"]), "<u4")
            np.add.at(counts[-1], tokens, 1)
        if command["num_runs"] == 1:
            command["pass"]["rows"] = len(tokens)
        vm.told.append(Round(run=i, drafted=len(drafted), tokens=tokens, ended=ended))
