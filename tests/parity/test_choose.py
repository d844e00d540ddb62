"""Op choose: the engine's tokens against the reference's choice at every position."""

import numpy as np
import pytest
from tiny._reference import reference

ops = reference.ops

CASES = {
    "greedy": {},
    "temperature": {"temperature": 0.7, "seed": 3},
    "hot": {"temperature": 3.0, "seed": 2**64 - 59},
    "top-k": {"temperature": 1.0, "top_k": 7, "seed": 4},
    "top-p": {"temperature": 1.0, "top_p": 0.8, "seed": 5},
    "min-p": {"temperature": 1.5, "min_p": 0.1, "seed": 6},
    "filters": {"temperature": 0.9, "top_k": 30, "top_p": 0.9, "min_p": 0.01, "seed": 7},
    "penalties": {
        "repetition_penalty": 1.3,
        "presence_penalty": 0.4,
        "frequency_penalty": 0.3,
        "temperature": 0.8,
        "seed": 8,
    },
    "greedy-penalties": {"repetition_penalty": 1.5, "frequency_penalty": 0.5},
    "bias": {"logit_bias": {5: 4.0, 17: 3.0, 99: -50.0}, "temperature": 1.0, "seed": 9},
}


def disagreements(target, prompt, output, params):
    """Positions where the reference, given the engine's own history, clearly chooses otherwise."""
    rows = target.forward([*prompt, *output]).logits[len(prompt) - 1 : -1]
    rng, clear = np.random.default_rng(0), 0
    wrong = []
    for i, token in enumerate(output):
        args = (params, len(prompt) + i, prompt, output[:i])
        nudged = {
            ops.choose(rows[i] + rng.uniform(-1e-3, 1e-3, rows.shape[1]), *args) for _ in range(6)
        }
        if len(nudged) == 1:
            clear += 1
            if nudged != {token}:
                wrong.append(i)
    assert clear > 0.8 * len(output), "too few clear choices to be a test"
    return wrong


# A random drafter is rightly reported as useless.
@pytest.mark.filterwarnings("ignore:the drafter had none of its tokens accepted")
@pytest.mark.parametrize("speculation", ["off", 5])
@pytest.mark.parametrize("fields", CASES.values(), ids=CASES)
@pytest.mark.parametrize("preset", ["flash", "pro"])
def test_choose(probe, prompt, preset, fields, speculation):
    kilotok = pytest.importorskip("kilotok", reason="the package is not installed")
    start = prompt(19)
    p = probe(preset, tokens=start)
    with kilotok.Engine(p.path, progress=False, speculation=speculation) as engine:
        params = kilotok.SamplingParams(max_tokens=60, ignore_eos=True, **fields)
        output = list(engine.generate(start, params).token_ids)
    assert len(output) == 60
    assert not disagreements(p.reference, start, output, ops.Sampling(**fields))
