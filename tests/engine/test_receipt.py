"""The receipt adds up, and a drafter that looks broken is spoken of."""

import random

import pytest
import tiny

from kilotok import Engine, SamplingParams

PARAMS = SamplingParams(max_tokens=100, ignore_eos=True)


@pytest.mark.parametrize("speculation", ["off", 2, 4, 8, "auto"])
def test_the_numbers_add_up(speculation):
    with Engine(progress=False) as engine:
        out = engine.generate("import argparse\n", PARAMS, speculation=speculation)
    receipt = out.receipt
    assert receipt.prompt_tokens == len(out.prompt_token_ids)
    assert receipt.tokens == len(out.token_ids) == 100
    assert 0 < receipt.prefill_ms <= receipt.ttft_ms
    assert receipt.queue_ms >= 0
    assert receipt.tokens_per_s > 0
    histogram = receipt.accepted_histogram
    drafted_rounds = sum(histogram)
    assert drafted_rounds <= receipt.rounds
    # One token from the prefill, one from every plain round, k + 1 from a round that accepted k;
    # the length limit may cut the last round short.
    total = 1 + (receipt.rounds - drafted_rounds)
    total += sum((k + 1) * n for k, n in enumerate(histogram))
    assert 100 <= total <= 100 + 7
    if speculation == "off":
        assert (receipt.tau, drafted_rounds, receipt.rounds) == (1.0, 0, 99)
    elif speculation != "auto":
        assert 1 < receipt.tau <= speculation
        assert sum(histogram[speculation:]) == 0
    assert receipt.plain_step_ms > 0
    assert receipt.speedup == pytest.approx(
        receipt.tokens_per_s * receipt.plain_step_ms / 1000, rel=1e-6
    )


def test_the_receipt_as_text_and_as_plain_values():
    with Engine(progress=False) as engine:
        receipt = engine.generate("import os\n", PARAMS, speculation=8).receipt
        single = engine.generate("import os\n", SamplingParams(max_tokens=1)).receipt
    assert receipt.to_dict()["accepted_histogram"] == list(receipt.accepted_histogram)
    for word in ("100 tokens", "tau", "tokens/s", "speedup", "plain step"):
        assert word in receipt.table()
    assert max(map(len, receipt.table().splitlines())) < 100
    assert "\n" not in str(receipt)
    assert (single.tokens, single.tokens_per_s, single.speedup) == (1, None, None)
    assert single.table()


def test_law_8_a_drafter_that_is_never_right_is_reported(tmp_path):
    """Law 8: output stays right, and the user is told why it is not faster."""
    tiny.write(tmp_path, "pro", seed=3)
    rng = random.Random(0)
    prompt = [rng.randrange(150) for _ in range(5)]
    sampled = SamplingParams(max_tokens=120, temperature=5.0, ignore_eos=True, seed=0)
    with Engine(tmp_path, progress=False) as engine:
        with pytest.warns(RuntimeWarning, match="none of its tokens accepted") as caught:
            out = engine.generate(prompt, sampled, speculation=8)
        assert "mask_embedding" in str(caught[0].message)
        assert out.receipt.warning in out.receipt.table()
        assert engine.stats()["warning"] == out.receipt.warning


def test_a_healthy_drafter_is_not_reported(recwarn):
    with Engine(progress=False) as engine:
        for prompt in ("import os\n", "def main():\n", "class A:\n"):
            assert engine.generate(prompt, PARAMS, speculation=8).receipt.warning is None
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]
