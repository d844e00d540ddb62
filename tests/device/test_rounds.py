"""Ops lay_out and accept against the round loop of the CPU, written down once more."""

from __future__ import annotations

import numpy as np
import pytest
from program import CONSTANTS, MASK_TOKEN, ROWS, STRUCTS, zeros

BLOCK = 6


def choices(machine, rng, tokens):
    """Candidates of all blocks among which ``tokens`` win."""
    best = np.zeros((machine.blocks, ROWS), STRUCTS["KilotokChoice"])
    best["score"] = rng.integers(0, 5, best.shape)
    best["token"] = rng.integers(50, 90, best.shape)
    for row, token in enumerate(tokens):
        winner = rng.integers(machine.blocks)
        # The same score elsewhere, a higher token.
        best[winner - 1, row] = (5, token + 1)
        best[winner, row] = (5, token)
    return best


def run_of(**fields):
    """A run."""
    run = zeros("KilotokRun")
    run["slot"], run["position"], run["anchor"], run["remaining"] = 3, 40, 7, 100
    for name, value in fields.items():
        if name == "stops":
            run["num_stops"] = len(value)
            run["stops"][: len(value)] = value
        else:
            run[name] = value
    return run


def command_with(*runs, skip=0):
    """A command that decodes ``runs``."""
    command = zeros("KilotokCommand")
    command["num_runs"], command["skip"] = len(runs), skip
    for i, run in enumerate(runs):
        command["run"][i] = run
    command["pass"]["row"] = (9, 9, 9, 9)
    return command


def rows_in(command):
    """Rows of the pass."""
    return [tuple(int(x) for x in row) for row in command["pass"]["row"][: command["pass"]["rows"]]]


@pytest.mark.parametrize("rows", [1, BLOCK, ROWS])
def test_a_block_is_drafted_whole(machine, rows):
    command = command_with(run_of(drafts=2, remaining=2))
    machine.run("LAY_OUT", command, is_draft=1, rows=rows)
    assert rows_in(command) == [(3, 40 + i, 7 if i == 0 else MASK_TOKEN, 0) for i in range(rows)]


@pytest.mark.parametrize(
    ("drafts", "remaining", "skip", "verified"),
    [
        (5, 100, 0, 5),
        (2, 100, 0, 2),
        (9, 100, 0, 5),
        (5, 3, 0, 2),
        (5, 1, 0, 0),
        (0, 9, 0, 0),
        (5, 100, CONSTANTS["KILOTOK_FLAG_DRAFT"], 0),
    ],
)
def test_drafts_are_verified_as_far_as_they_may_be(machine, rng, drafts, remaining, skip, verified):
    command = command_with(run_of(drafts=drafts, remaining=remaining), skip=skip)
    tokens = [99, 11, 12, 13, 14, 15]
    best = choices(machine, rng, tokens)
    machine.run("LAY_OUT", command, best=best, rows=BLOCK)
    want = [(3, 40 + i, 7 if i == 0 else tokens[i], 0) for i in range(verified + 1)]
    assert rows_in(command) == want


def test_several_runs_have_a_row_each(machine, rng):
    runs = [run_of(slot=i, position=10 * i, anchor=i + 1, drafts=4) for i in range(5)]
    command = command_with(*runs)
    machine.run("LAY_OUT", command, best=choices(machine, rng, [1] * BLOCK), rows=BLOCK)
    assert rows_in(command) == [(i, 10 * i, i + 1, i) for i in range(5)]


def test_without_runs_the_pass_is_the_hosts(machine, rng):
    command = command_with()
    command["pass"]["rows"] = 2
    before = command.copy()
    machine.run("LAY_OUT", command, best=choices(machine, rng, []), rows=BLOCK)
    machine.run("ACCEPT", command, best=choices(machine, rng, []))
    assert command == before
    assert machine.mailbox["num_rounds"] == 0


def walk(drafts, chosen, remaining, stops):
    """Return emitted tokens, accepted drafts and why it ended."""
    emitted, accepted = [], 0
    for row, token in enumerate(chosen[: len(drafts) + 1]):
        emitted.append(token)
        equal = row < len(drafts) and drafts[row] == token
        accepted += equal
        if token in stops:
            return emitted, accepted, 1
        if len(emitted) == remaining:
            return emitted, accepted, 2
        if not equal:
            break
    return emitted, accepted, 0


CASES = [
    ([], [5], 9, []),
    ([5, 6, 7], [5, 6, 7, 8], 9, []),
    ([5, 6, 7], [5, 6, 9, 8], 9, []),
    ([5, 6, 7], [1, 6, 7, 8], 9, []),
    ([5, 6, 7], [5, 6, 7, 8], 9, [6]),
    ([5, 6, 7], [5, 6, 7, 8], 9, [3, 8]),
    ([5, 6, 7], [5, 9, 7, 8], 9, [9]),
    ([5, 6, 7], [5, 6, 7, 8], 4, []),
    ([5, 6, 7], [5, 6, 7, 8], 4, [8]),
    ([5] * 7, [5] * 8, 20, list(range(60, 74))),
    ([], [5], 1, []),
]


@pytest.mark.parametrize(("drafts", "chosen", "remaining", "stops"), CASES)
@pytest.mark.parametrize("written", [0, 1023])
def test_walks(machine, rng, drafts, chosen, remaining, stops, written):
    command = command_with(run_of(remaining=remaining, stops=stops))
    command["written"] = written
    rows = [(3, 40 + i, token, 0) for i, token in enumerate([7, *drafts])]
    command["pass"]["rows"] = len(rows)
    command["pass"]["row"][: len(rows)] = rows
    machine.run("ACCEPT", command, best=choices(machine, rng, chosen))
    emitted, accepted, ended = walk(drafts, chosen, remaining, stops)
    run = command["run"][0]
    assert run["position"] == 40 + len(emitted)
    assert run["anchor"] == emitted[-1]
    assert run["remaining"] == remaining - len(emitted)
    assert run["ended"] == ended
    assert rows_in(command) == rows[: len(emitted)]
    assert command["written"] == machine.mailbox["num_rounds"] == written + 1
    told = machine.mailbox["rounds"][written % CONSTANTS["KILOTOK_ROUND_RING"]]
    assert list(told["tokens"][: len(emitted)]) == emitted
    assert (told["run"], told["drafted"]) == (0, len(drafts))
    assert (told["emitted"], told["accepted"]) == (len(emitted), accepted)
    assert told["ended"] == ended


def test_several_runs_walk_one_row_each(machine, rng):
    runs = [run_of(slot=i, remaining=1 + i, stops=[22]) for i in range(4)]
    command = command_with(*runs)
    command["pass"]["rows"] = 4
    command["pass"]["row"][:4] = [(i, 40, 7, i) for i in range(4)]
    machine.run("ACCEPT", command, best=choices(machine, rng, [20, 21, 22, 23]))
    assert [int(r["ended"]) for r in command["run"][:4]] == [2, 0, 1, 0]
    assert [int(r["anchor"]) for r in command["run"][:4]] == [20, 21, 22, 23]
    assert all(r["position"] == 41 for r in command["run"][:4])
    assert command["pass"]["rows"] == 4
    assert machine.mailbox["num_rounds"] == 4
    for i, told in enumerate(machine.mailbox["rounds"][:4]):
        assert (told["run"], told["emitted"], told["tokens"][0]) == (i, 1, 20 + i)
