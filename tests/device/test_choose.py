"""Ops choose and draft_choose against the CPU's rule, written down once more."""

from __future__ import annotations

import numpy as np
import pytest
from program import ROWS, STRUCTS, command_of

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(z):
    """splitmix64's finaliser."""
    with np.errstate(over="ignore"):
        z = z ^ (z >> np.uint64(30))
        z = z * np.uint64(0xBF58476D1CE4E5B9)
        z = z ^ (z >> np.uint64(27))
        z = z * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def gumbel(seed, position, tokens):
    """Noise of ``tokens`` at ``position``, f32."""
    with np.errstate(over="ignore"):
        key = mix(np.uint64(seed) + GOLDEN * np.uint64(position + 1))
        bits = mix(key + GOLDEN * (tokens.astype(np.uint64) + np.uint64(1))) >> np.uint64(40)
    uniform = (bits.astype(np.float64) + 0.5) * 2.0**-24
    return (-np.log(-np.log(uniform))).astype(np.float32)


def choice(logits, temperature=0.0, seed=0, position=0):
    """The token of one row."""
    if temperature == 0:
        scores = np.where(np.isnan(logits), -np.inf, logits)
        return int(np.argmax(scores))
    scores = logits / np.float32(temperature) + gumbel(seed, position, np.arange(len(logits)))
    scores = np.where(np.isnan(scores), -np.inf, scores)
    return int(np.argmax(scores))


def best_of(best, rows):
    """Make one of the choices of all blocks, as the ops after it do."""
    tokens = []
    for row in range(rows):
        order = sorted((-float(c["score"]), int(c["token"])) for c in best[:, row])
        tokens.append(0 if order[0][1] == 0xFFFFFFFF else order[0][1])
    return tokens


def run(machine, logits, vocab, command, op="CHOOSE"):
    """Tokens of all rows."""
    best = np.full((machine.blocks, ROWS), 0, STRUCTS["KilotokChoice"])
    best["score"] = np.nan
    machine.run(op, command, logits=logits, best=best, stride=logits.shape[1], vocab=vocab)
    return best_of(best, int(command["pass"]["rows"]))


def sampling_command(rng, rows, temperature):
    """Runs with ``temperature``, one per row."""
    command = command_of([(i, int(rng.integers(5000))) for i in range(rows)])
    command["num_runs"] = rows
    for i in range(rows):
        command["pass"]["row"][i]["run"] = i
        command["run"][i]["temperature"] = temperature
        command["run"][i]["seed"] = rng.integers(1 << 63)
    return command


@pytest.mark.parametrize("vocab", [1, 5, 259, 4099])
@pytest.mark.parametrize("rows", [1, 3, 8])
@pytest.mark.parametrize("blocks", [1, 5, 132])
def test_greedy(machine, rng, vocab, rows, blocks):
    machine.blocks = blocks
    stride = -(-vocab // 32) * 32
    logits = np.full((ROWS, stride), 100, np.float32)
    # Few different values: ties decide.
    logits[:, :vocab] = rng.integers(0, 40, (ROWS, vocab))
    logits[1, : vocab // 2] = np.nan
    logits[2, :vocab] = -np.inf
    for op in ("CHOOSE", "DRAFT_CHOOSE"):
        got = run(machine, logits, vocab, command_of([(0, i) for i in range(rows)]), op)
        assert got == [choice(logits[i, :vocab]) for i in range(rows)]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1e-6, 50.0])
@pytest.mark.parametrize("rows", [1, 5, 8])
def test_sampling_draws_the_token_that_the_cpu_draws(machine, rng, temperature, rows):
    vocab = 2000
    logits = rng.normal(0, 3, (ROWS, 2016)).astype(np.float32)
    logits[0, :50] = np.nan
    logits[1, 100:] = -np.inf
    command = sampling_command(rng, rows, np.float32(temperature))
    got = run(machine, logits, vocab, command)
    for i in range(rows):
        params = command["run"][i]
        position = int(command["pass"]["row"][i]["position"]) + 1
        assert got[i] == choice(
            logits[i, :vocab], params["temperature"], params["seed"], position
        ), i


def test_the_number_of_blocks_changes_no_choice(machine, rng):
    logits = rng.normal(0, 2, (ROWS, 4096)).astype(np.float32)
    command = sampling_command(rng, 4, np.float32(0.8))
    results = []
    for machine.blocks in (1, 7, 132):
        results.append(run(machine, logits, 4000, command))
    assert results[0] == results[1] == results[2]
