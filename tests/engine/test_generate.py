"""Whole texts: shapes of what comes back, order, seeds, `n`, ends, log-probabilities."""

import math

import pytest

from kilotok import SamplingParams

PROMPT = "def the(in):"
SAMPLED = SamplingParams(max_tokens=24, temperature=0.9, seed=7, ignore_eos=True)


def test_text_in_text_out(engine):
    out = engine.generate(PROMPT, SamplingParams(max_tokens=16, ignore_eos=True))
    assert out.prompt_token_ids == engine.encode(PROMPT)
    assert len(out.token_ids) == 16
    assert out.text == engine.decode(out.token_ids)
    assert out.finish_reason == "length"
    assert out.logprobs is None


def test_token_ids_are_the_text_they_encode(engine):
    text = engine.generate(PROMPT, SAMPLED)
    ids = engine.generate(engine.encode(PROMPT), SAMPLED)
    assert ids.token_ids == text.token_ids
    assert ids.text == text.text


def test_without_a_tokenizer_ids_go_in_and_out(ids_engine):
    out = ids_engine.generate([5, 17, 3], SamplingParams(max_tokens=8, ignore_eos=True))
    assert out.text is None
    assert len(out.token_ids) == 8
    assert not ids_engine.has_tokenizer


def test_a_list_comes_back_in_order(engine):
    prompts = [f"the {i} on " * (1 + i % 4) for i in range(40)]
    together = engine.generate(prompts, SAMPLED)
    assert isinstance(together, list)
    assert [o.prompt_token_ids for o in together] == [engine.encode(p) for p in prompts]
    alone = [engine.generate(p, SAMPLED) for p in prompts[::8]]
    assert [o.token_ids for o in together[::8]] == [o.token_ids for o in alone]


def test_a_list_of_one_is_a_list(engine):
    (out,) = engine.generate([[1, 2, 3]], SAMPLED)
    assert out.prompt_token_ids == [1, 2, 3]


def test_numpy_integers_are_token_ids(engine):
    np = pytest.importorskip("numpy")
    out = engine.generate(np.array([1, 2, 3]), SAMPLED)
    assert out.token_ids == engine.generate([1, 2, 3], SAMPLED).token_ids


def test_a_seed_repeats_and_another_differs(engine):
    first = engine.generate(PROMPT, SAMPLED)
    again = engine.generate(PROMPT, SAMPLED)
    assert first.token_ids == again.token_ids
    others = {
        tuple(
            engine.generate(
                PROMPT, SamplingParams(max_tokens=24, temperature=0.9, seed=s)
            ).token_ids
        )
        for s in range(8)
    }
    assert len(others) > 1


def test_the_drawn_seed_is_on_the_receipt(engine):
    params = SamplingParams(max_tokens=24, temperature=1.0, ignore_eos=True)
    drawn = engine.generate(PROMPT, params)
    again = engine.generate(
        PROMPT,
        SamplingParams(max_tokens=24, temperature=1.0, ignore_eos=True, seed=drawn.receipt.seed),
    )
    assert drawn.token_ids == again.token_ids


def test_n_texts_are_those_of_consecutive_seeds(engine):
    params = {"max_tokens": 24, "temperature": 0.9, "ignore_eos": True}
    out = engine.generate(PROMPT, SamplingParams(seed=40, n=4, **params))
    assert len(out.completions) == 4
    for i, completion in enumerate(out.completions):
        single = engine.generate(PROMPT, SamplingParams(seed=40 + i, **params))
        assert completion.token_ids == single.token_ids
        assert completion.receipt.seed == 40 + i
    assert out.token_ids == out.completions[0].token_ids
    assert len({tuple(c.token_ids) for c in out.completions}) > 1


def test_a_stop_token_ends_and_is_named(engine):
    free = engine.generate(PROMPT, SAMPLED)
    stop = free.token_ids[10]
    cut = free.token_ids.index(stop) + 1
    out = engine.generate(
        PROMPT,
        SamplingParams(
            max_tokens=24, temperature=0.9, seed=7, ignore_eos=True, stop_token_ids=[stop]
        ),
    )
    assert out.token_ids == free.token_ids[:cut]
    assert out.finish_reason == "stop"
    assert out.stop_reason == stop


def test_max_tokens_none_fills_the_context(checkpoint):
    from kilotok import Engine

    with Engine(checkpoint("pro"), progress=False, max_positions=64) as engine:
        out = engine.generate([1, 2, 3], SamplingParams(max_tokens=None, ignore_eos=True))
    assert len(out.prompt_token_ids) + len(out.token_ids) == 64
    assert out.finish_reason == "length"


@pytest.mark.parametrize("speculation", ["off", "auto", 4])
def test_logprobs_are_distributions(engine, speculation):
    params = SamplingParams(max_tokens=12, logprobs=5, ignore_eos=True)
    out = engine.generate(PROMPT, params, speculation=speculation)
    assert len(out.logprobs) == len(out.token_ids) == 12
    for token, entry in zip(out.token_ids, out.logprobs, strict=True):
        assert entry.token_id == token
        assert len(entry.top) == 5
        # Greedy: the chosen token is the likeliest one.
        assert entry.top[0] == (token, entry.logprob)
        values = [value for _, value in entry.top]
        assert values == sorted(values, reverse=True)
        assert sum(math.exp(value) for value in values) <= 1 + 1e-5
    everything = SamplingParams(max_tokens=2, logprobs=64, ignore_eos=True)
    assert engine.generate(PROMPT, everything).logprobs[0].top[:5] == out.logprobs[0].top


def test_logit_bias_decides(engine):
    bias = SamplingParams(max_tokens=6, logit_bias={65: 1e4}, ignore_eos=True)
    out = engine.generate(PROMPT, bias)
    assert out.token_ids == [65] * 6


def test_a_repetition_penalty_changes_the_text(engine):
    prompt = list(range(40, 72))
    free = engine.generate(prompt, SamplingParams(max_tokens=32, ignore_eos=True))
    params = SamplingParams(max_tokens=32, ignore_eos=True, frequency_penalty=50.0)
    punished = engine.generate(prompt, params)
    assert len(set(punished.token_ids)) == 32, "a token came twice under a huge penalty"
    assert free.token_ids != punished.token_ids or len(set(free.token_ids)) == 32
