"""Noise and choice against published values, laws and brute force."""

import json
import math

import numpy as np
import pytest
from tiny._reference import reference

ops = reference.ops


def test_noise_is_splitmix64():
    """With seed 0 at position 0 the inner state is splitmix64's first published output."""
    first = 0xE220A8397B1DCDAF
    gamma, mask = 0x9E3779B97F4A7C15, (1 << 64) - 1
    for v, got in enumerate(ops.gumbel_bits(0, 0, 4)):
        z = (first + gamma * (v + 1)) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        assert int(got) == z ^ (z >> 31)


def test_noise_depends_on_seed_position_and_token_alone():
    assert ops.gumbel(1, 2, 50).tolist() == ops.gumbel(1, 2, 500)[:50].tolist()
    assert (ops.gumbel(1, 2, 50) != ops.gumbel(1, 3, 50)).all()
    assert (ops.gumbel(1, 2, 50) != ops.gumbel(2, 2, 50)).all()


def test_noise_has_the_gumbel_distribution():
    x = np.concatenate([ops.gumbel(9, p, 1000) for p in range(200)]).astype(np.float64)
    assert np.isfinite(x).all()
    assert abs(x.mean() - 0.57721566) < 4 * math.pi / math.sqrt(6 * x.size)
    u = np.sort(np.exp(-np.exp(-x)))
    ks = np.abs(u - (np.arange(u.size) + 0.5) / u.size).max()
    assert ks < 1.95 / math.sqrt(u.size)


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"top_k": 2}, [0, 1]),
        ({"top_p": 0.5}, [0]),
        ({"top_p": 0.51}, [0, 1]),
        ({"top_p": 0.76}, [0, 1, 2]),
        ({"top_k": 2, "top_p": 0.7}, [0, 1]),
        ({"top_k": 2, "top_p": 0.6}, [0]),
        ({"min_p": 0.25}, [0, 1, 2, 3]),
        ({"min_p": 0.3}, [0, 1]),
    ],
)
def test_filters_keep_known_sets(fields, kept):
    p = np.array([0.5, 0.25, 0.125, 0.125, 0.0])
    with np.errstate(divide="ignore"):
        logits = np.log(p).astype(np.float32)
    if not fields:
        logits[4] = -20
    if "min_p" in fields:
        fields = {**fields, "min_p": fields["min_p"] - 1e-4}
    got = ops.kept_tokens(logits, ops.Sampling(temperature=1.0, **fields))
    assert sorted(got.tolist()) == kept


def test_draws_follow_the_filtered_distribution():
    logits = np.array([1.0, 0.2, -0.5, 2.0, -9.0], np.float32)
    params = ops.Sampling(temperature=1.3, top_p=0.9, seed=3)
    kept = ops.kept_tokens(logits / np.float32(1.3), params)
    p = np.zeros(5)
    p[kept] = np.exp(logits[kept] / 1.3)
    p /= p.sum()
    n = 6000
    counts = np.bincount([ops.choose(logits, params, i) for i in range(n)], minlength=5)
    used = p > 0
    assert counts[~used].sum() == 0
    chi2 = ((counts - n * p)[used] ** 2 / (n * p)[used]).sum()
    assert chi2 < 20


def test_greedy_takes_the_lowest_index_on_ties():
    assert ops.choose(np.array([1, 3, 3, 2], np.float32)) == 1


def test_penalties_by_hand():
    params = ops.Sampling(
        repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25, logit_bias={4: 1.0}
    )
    got = ops.penalise(np.array([2, -2, 2, 1, 1], np.float64), params, [0, 1], [2, 2, 4])
    assert got.tolist() == [1.0, -4.0, 1.0 - 0.5 - 0.5, 1.0, 1.0 - 0.5 - 0.25]


def test_committed_choices(golden):
    data = json.loads((golden / "sampling.json").read_text())
    for case in data["noise"]:
        bits = ops.gumbel_bits(case["seed"], case["position"], 6)
        assert [f"{int(b):016x}" for b in bits] == case["bits"]
    for case in data["choose"]:
        fields = dict(case["params"])
        fields["logit_bias"] = {int(k): v for k, v in fields["logit_bias"].items()}
        logits = np.array(case["logits"], np.float32)
        params = ops.Sampling(**fields)
        got = ops.choose(logits, params, case["position"], case["prompt"], case["output"])
        assert got == case["token"]
