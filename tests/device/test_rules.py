"""Ops adjust and filter, and choose behind them, against the reference's rule for one row.

The device sums probabilities that f32 holds to 2e-7 of themselves, the reference does it in f64:
where a sum is that near to `top_p`, either last token is right. All else is exact.
"""

from __future__ import annotations

import numpy as np
import pytest
from program import CONSTANTS, ROWS, STRUCTS, command_of
from test_choose import best_of

from kilotok.reference import ops

BIAS, PENALTIES, FILTERS = (
    CONSTANTS[f"KILOTOK_RULE_{n}"] for n in ("BIAS", "PENALTIES", "FILTERS")
)
IN_PROMPT = CONSTANTS["KILOTOK_IN_PROMPT"]
#: What rounding of probabilities does to a sum of them, and to another one that it is a share of.
SUMS = 4e-7
SLOTS = 9


class Tables:
    """Counts and biases of all slots, and what they were made of."""

    def __init__(self, rng, stride: int, vocab: int) -> None:
        self.counts = np.zeros((SLOTS, stride), np.uint32)
        self.biases = np.zeros((SLOTS, stride), np.float32)
        self.prompts, self.outputs = [], []
        for slot in range(SLOTS):
            prompt = rng.integers(vocab, size=rng.integers(1, 60))
            output = rng.integers(vocab, size=rng.integers(0, 60))
            self.counts[slot, prompt] |= np.uint32(IN_PROMPT)
            np.add.at(self.counts[slot], output, 1)
            biased = rng.integers(vocab, size=5)
            self.biases[slot, biased] = rng.normal(0, 4, 5)
            self.prompts.append(prompt.tolist())
            self.outputs.append(output.tolist())

    def bias(self, slot: int) -> dict[int, float]:
        found = np.flatnonzero(self.biases[slot])
        return {int(token): float(self.biases[slot, token]) for token in found}


def params(rng, **fields) -> ops.Sampling:
    """A run's parameters, as the device sees them: in f32."""
    single = {
        name: float(np.float32(value)) if isinstance(value, float) else value
        for name, value in fields.items()
    }
    return ops.Sampling(seed=int(rng.integers(1 << 63)), **single)


def command_for(rng, runs: list[ops.Sampling], rows: int, vocab: int, with_bias: bool = True):
    """Runs with a row each, or the `rows` rows of an only run with drafts."""
    command = command_of([(0, 0)] * rows)
    command["num_runs"] = len(runs)
    start = int(rng.integers(5000))
    for i in range(rows):
        run = i if len(runs) > 1 else 0
        slot = (3 * run + 1) % SLOTS
        token = int(rng.integers(min(vocab, 4)))
        command["pass"]["row"][i] = (slot, start + i, token, run)
    for i, run in enumerate(runs):
        to = command["run"][i]
        to["slot"], to["seed"], to["temperature"] = (3 * i + 1) % SLOTS, run.seed, run.temperature
        to["top_k"], to["top_p"], to["min_p"] = run.top_k, run.top_p, run.min_p
        to["repetition"] = run.repetition_penalty
        to["presence"], to["frequency"] = run.presence_penalty, run.frequency_penalty
        has_penalties = run.repetition_penalty != 1 or run.presence_penalty or run.frequency_penalty
        filters = run.temperature != 0 and (run.top_k or run.top_p < 1 or run.min_p > 0)
        to["rules"] = (
            (BIAS if with_bias else 0)
            | (PENALTIES if has_penalties else 0)
            | (FILTERS if filters else 0)
        )
    return command


def run(machine, logits, vocab, command, tables):
    """Adjusted logits, the last tokens kept, and the tokens chosen."""
    scaled, rows = logits.copy(), int(command["pass"]["rows"])
    peaks = np.full((machine.blocks, ROWS), np.nan, np.float32)
    kept = np.zeros(ROWS, STRUCTS["KilotokChoice"])
    kept["score"] = np.nan
    best = np.zeros((machine.blocks, ROWS), STRUCTS["KilotokChoice"])
    best["score"] = np.nan
    shape = {"stride": logits.shape[1], "vocab": vocab}
    machine.run(
        "ADJUST",
        command,
        logits=scaled,
        counts=tables.counts,
        biases=tables.biases,
        peaks=peaks,
        **shape,
    )
    machine.run(
        "FILTER", command, scaled=scaled, peaks=peaks, kept=kept, blocks=machine.blocks, **shape
    )
    machine.run("CHOOSE", command, logits=scaled, best=best, kept=kept, **shape)
    return scaled, kept, best_of(best, rows)


def order_of(scaled):
    """Tokens, the best first."""
    # Of two zeros that with a sign is the smaller one.
    return np.lexsort((np.arange(scaled.size), np.signbit(scaled), -scaled))


def kept_at_most(scaled, run, error):
    """How many tokens stay where sums of probabilities are off by this share of themselves."""
    order = order_of(scaled)[: run.top_k or None]
    # The difference is made in f32.
    mass = np.exp((scaled[order] - scaled[order[0]]).astype(np.float64))
    keep = mass >= float(np.float32(run.min_p))
    if run.top_p < 1:
        before = np.cumsum(mass) - mass
        keep &= before < float(np.float32(run.top_p)) * mass.sum() * (1 + error)
    keep[0] = True
    return int(np.argmin(np.append(keep, False)))


def check(machine, rng, logits, vocab, runs, rows=None, with_bias=True):
    """Everything about every row, but for what lies too near to a limit."""
    rows = rows or len(runs)
    tables = Tables(rng, logits.shape[1], vocab)
    command = command_for(rng, runs, rows, vocab, with_bias)
    before = logits.copy()
    scaled, kept, tokens = run(machine, logits, vocab, command, tables)
    assert np.array_equal(logits, before)
    for i in range(rows):
        one = runs[i] if len(runs) > 1 else runs[0]
        slot = int(command["pass"]["row"][i]["slot"])
        drafted = command["pass"]["row"]["token"][1 : i + 1].tolist() if len(runs) == 1 else []
        prompt, output = tables.prompts[slot], tables.outputs[slot] + drafted
        biases = tables.bias(slot) if with_bias else {}
        one = ops.Sampling(**{**one.__dict__, "logit_bias": biases})
        row = logits[i, :vocab]
        to = command["run"][i if len(runs) > 1 else 0]
        if to["rules"] == 0:
            assert np.array_equal(scaled[i], logits[i])
            continue
        want = ops.penalise(row, one, prompt, output) if to["rules"] & PENALTIES else row.copy()
        if not to["rules"] & PENALTIES:
            for token, bias in biases.items():
                want[token] += np.float32(bias)
        want = want / np.float32(one.temperature or 1)
        assert np.array_equal(scaled[i, :vocab], want), i
        assert np.array_equal(scaled[i, vocab:], logits[i, vocab:])
        among = np.arange(vocab)
        if to["rules"] & FILTERS:
            order = order_of(want)
            count = int(np.flatnonzero(order == kept[i]["token"])[0]) + 1
            assert kept[i]["score"] == want[order[count - 1]]
            fewest, most = (kept_at_most(want, one, error) for error in (-SUMS, SUMS))
            assert fewest <= count <= most, i
            among = np.sort(order[:count])
        else:
            assert np.isnan(kept[i]["score"])
        position = int(command["pass"]["row"][i]["position"]) + 1
        if one.temperature == 0:
            assert tokens[i] == int(np.argmax(want)), i
        else:
            noise = ops.gumbel(one.seed, position, vocab)
            assert tokens[i] == int(among[np.argmax(want[among] + noise[among])]), i


def logits_of(rng, vocab, spread=3.0):
    stride = -(-vocab // 32) * 32
    logits = np.zeros((ROWS, stride), np.float32)
    logits[:, :vocab] = rng.normal(0, spread, (ROWS, vocab))
    return logits


CASES = {
    "top_k": {"top_k": 5},
    "top_k of one": {"top_k": 1},
    "top_k of all": {"top_k": 1 << 20},
    "top_p": {"top_p": 0.9},
    "a small top_p": {"top_p": 1e-6},
    "a large top_p": {"top_p": 0.9999},
    "min_p": {"min_p": 0.05},
    "min_p of one": {"min_p": 1.0},
    "all": {"top_k": 40, "top_p": 0.8, "min_p": 0.01},
    "top_k and top_p": {"top_k": 300, "top_p": 0.95},
    "penalties": {"repetition_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.3},
    "rewards": {"repetition_penalty": 0.7, "presence_penalty": -0.4, "frequency_penalty": -0.2},
    "everything": {
        "top_k": 50,
        "top_p": 0.9,
        "min_p": 0.02,
        "repetition_penalty": 1.1,
        "frequency_penalty": 0.7,
    },
}


@pytest.mark.parametrize("fields", CASES.values(), ids=CASES)
@pytest.mark.parametrize(("vocab", "blocks"), [(3, 1), (157, 5), (4099, 5), (9000, 7)])
def test_rows_of_several_runs(machine, rng, fields, vocab, blocks):
    machine.blocks = blocks
    temperatures = [0.0, 0.3, 1.0, 50.0, 0.9, 1.0]
    runs = [params(rng, temperature=t, **fields) for t in temperatures]
    check(machine, rng, logits_of(rng, vocab), vocab, runs)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_drafted_tokens_count_as_generated(machine, rng, temperature):
    fields = CASES["everything"]
    logits = logits_of(rng, 259)
    logits[:, :4] += 9
    one = params(rng, temperature=temperature, **fields)
    check(machine, rng, logits, 259, [one], rows=ROWS)


@pytest.mark.parametrize("fields", [CASES["top_k"], CASES["top_p"], CASES["all"], {"top_k": 7000}])
def test_ties_keep_the_lower_tokens(machine, rng, fields):
    # Few different values, and values that all tokens share.
    logits = logits_of(rng, 9000)
    logits[:, :9000] = rng.integers(0, 5, (ROWS, 9000)) * 0.5
    logits[1, :9000] = 2.5
    logits[2, :9000] = np.where(rng.random(9000) < 0.5, -0.0, 0.0)
    logits[3, :9000] = -1e30
    runs = [params(rng, temperature=1.0, **fields) for _ in range(4)]
    check(machine, rng, logits, 9000, runs, with_bias=False)


@pytest.mark.parametrize("fields", [CASES["top_k"], CASES["top_p"], CASES["min_p"], CASES["all"]])
def test_values_far_apart(machine, rng, fields):
    vocab = 9000
    logits = logits_of(rng, vocab)
    logits[0, rng.integers(vocab, size=8000)] = -np.inf
    logits[1, :vocab] = -np.inf
    logits[1, [7, 70, 700]] = [1.0, 2.0, 2.0]
    logits[2, :vocab] = np.linspace(-1e4, 1e4, vocab)
    logits[3, :vocab] = 1e-30 * rng.normal(size=vocab)
    logits[4, :vocab] = np.exp(rng.normal(0, 10, vocab))
    runs = [params(rng, temperature=1.0, **fields) for _ in range(5)]
    check(machine, rng, logits, vocab, runs, with_bias=False)


def test_thousands_of_tokens_are_kept(machine, rng):
    # More than are listed at once: the op halves its way to the last one.
    vocab = 40_000
    logits = logits_of(rng, vocab, spread=0.5)
    cases = [{"top_p": 0.7}, {"top_k": 20_000}, {"top_k": 30_000, "top_p": 0.9}, {"min_p": 0.05}]
    runs = [params(rng, temperature=1.0, **fields) for fields in cases]
    check(machine, rng, logits, vocab, runs, with_bias=False)


def test_rows_without_rules_are_left_alone(machine, rng):
    logits = logits_of(rng, 500)
    runs = [params(rng, temperature=0.7), params(rng, temperature=0.7, top_k=3)]
    check(machine, rng, logits, 500, runs, with_bias=False)


def test_the_number_of_blocks_changes_nothing(machine, rng):
    vocab = 20_000
    logits = logits_of(rng, vocab)
    runs = [params(rng, temperature=0.9, **CASES[name]) for name in ("all", "top_p", "everything")]
    tables = Tables(rng, logits.shape[1], vocab)
    command = command_for(rng, runs, len(runs), vocab)
    results = []
    for machine.blocks in (1, 7, 132):
        results.append(run(machine, logits, vocab, command.copy(), tables))
    for scaled, kept, tokens in results[1:]:
        assert np.array_equal(scaled, results[0][0])
        assert np.array_equal(kept[: len(runs)], results[0][1][: len(runs)])
        assert tokens == results[0][2]
