"""Op accept: the engine's rounds against the reference's drafts at every position."""

import itertools
import json
from collections import Counter

import pytest
from tiny._reference import reference


def accepted_from(target, drafter, prompt, output, block):
    """Per number of emitted tokens: how many drafts a block there has accepted."""
    text = [*prompt, *output]
    taps = target.forward(text).taps(drafter.config.target_layer_ids)
    counts = {}
    for emitted in range(1, len(output)):
        size = min(block, len(output) - emitted)
        start = len(prompt) + emitted - 1
        drafts = []
        if size > 1:
            context = drafter.extend(drafter.empty(), taps[:start])
            # The engine drafts whole blocks and verifies the first drafts of them.
            drafts = drafter.block(context, text[start]).argmax(axis=-1).tolist()[: size - 1]
        # One choice beyond the drafts, whatever it is.
        choices = [*text[start + 1 : start + size], -1]
        counts[emitted] = reference.ops.accept(drafts, choices)
    return counts


def histogram(counts, tokens, block, plain):
    """Accepted counts of a run whose rounds numbered in ``plain`` draft nothing."""
    seen, emitted = Counter(), 1
    for number in itertools.count():
        if emitted >= tokens:
            return seen, number
        if number in plain or min(block, tokens - emitted) < 2:
            emitted += 1
        else:
            seen[counts[emitted]] += 1
            emitted += counts[emitted] + 1


@pytest.mark.usefixtures("core")
@pytest.mark.parametrize("block", [2, 4, 8])
@pytest.mark.parametrize("name", ["flash", "pro", "v25"])
def test_accept(golden, name, block):
    """Some rounds measure a plain step instead; which ones is the engine's affair."""
    kilotok = pytest.importorskip("kilotok", reason="the package is not installed")
    path = golden / name / "model"
    target = reference.open_target(path)
    drafter = reference.Drafter(path / "dflash", target)
    for case in json.loads((golden / name / "golden.json").read_text())["cases"]:
        with kilotok.Engine(path, progress=False, speculation=block) as engine:
            params = kilotok.SamplingParams(max_tokens=64, ignore_eos=True)
            output = engine.generate(case["prompt"], params)
        assert list(output.token_ids) == case["greedy"]
        got, rounds = Counter(), output.receipt.rounds
        for k, n in enumerate(output.receipt.accepted_histogram):
            got[k] += n
        plain = rounds - sum(got.values())
        assert 0 <= plain <= 4, "rounds without drafts are the exception"
        counts = accepted_from(target, drafter, case["prompt"], case["greedy"], block)
        last = {n for n in (plain, plain - 1) if n >= 0}
        possible = (
            histogram(counts, 64, block, set(which))
            for n in last
            for which in itertools.combinations(range(rounds), n)
        )
        assert (+got, rounds) in ((+seen, n) for seen, n in possible)
