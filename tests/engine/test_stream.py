"""Streaming: the same as not streaming, piece by piece."""

import itertools

import pytest

from kilotok import SamplingParams

PROMPT = "in the "


def joined(pieces):
    pieces = list(pieces)
    assert all(p.finish_reason is None and p.receipt is None for p in pieces[:-1])
    assert pieces[-1].finish_reason is not None
    assert pieces[-1].receipt is not None
    return "".join(p.text for p in pieces), [t for p in pieces for t in p.token_ids], pieces[-1]


@pytest.mark.parametrize("speculation", ["off", 4, "auto"])
@pytest.mark.parametrize("seed", range(6))
def test_stream_equals_generate(engine, speculation, seed):
    params = SamplingParams(max_tokens=40, temperature=1.0, seed=seed)
    whole = engine.generate(PROMPT, params, speculation=speculation)
    text, ids, last = joined(engine.stream(PROMPT, params, speculation=speculation))
    assert ids == whole.token_ids
    assert text == whole.text
    assert last.finish_reason == whole.finish_reason
    assert last.stop_reason == whole.stop_reason


def test_no_piece_shows_part_of_a_character(engine):
    # A random model speaks random bytes; what is streamed must decode as the whole does.
    for seed in range(10):
        params = SamplingParams(max_tokens=64, temperature=2.0, seed=seed, ignore_eos=True)
        text, ids, _ = joined(engine.stream(PROMPT, params))
        assert text == engine.decode(ids)


def test_characters_of_several_tokens_come_whole(engine):
    # Forced bytes: the euro sign, again and again, one byte per token.
    euro = engine.encode("€")
    assert len(euro) == 3
    text = ""
    for first, second in itertools.pairwise([*euro, euro[0]]):
        bias = {second: 1e4}
        out = engine.generate(
            [*engine.encode("x"), first], SamplingParams(max_tokens=1, logit_bias=bias)
        )
        assert out.token_ids == [second]
        text += out.text
    # Each alone is an unfinished character; together they are decoded whole.
    assert engine.decode(euro) == "€"
    assert set(text) == {"\ufffd"}


@pytest.mark.parametrize("speculation", ["off", 8])
def test_stop_strings_never_leak(engine, speculation):
    """The text ends right before the earliest match, however tokens and rounds cut it."""
    checked = 0
    for seed in range(20):
        params = {"max_tokens": 48, "temperature": 1.2, "seed": seed, "ignore_eos": True}
        free = engine.generate(PROMPT, SamplingParams(**params), speculation=speculation).text
        for start, length in ((3, 1), (9, 2), (14, 4)):
            stop = free[start : start + length]
            if len(stop) < length or "\ufffd" in stop:
                continue
            expected = free[: free.index(stop)]
            limited = SamplingParams(stop=[stop, "\0never\0"], **params)
            pieces = engine.stream(PROMPT, limited, speculation=speculation)
            text, ids, last = joined(pieces)
            assert text == expected
            assert last.finish_reason == "stop"
            assert last.stop_reason == stop
            assert engine.decode(ids).startswith(expected)
            out = engine.generate(PROMPT, limited, speculation=speculation)
            assert (out.text, out.token_ids) == (text, ids)
            checked += 1
    assert checked > 10


def test_stop_strings_cut_the_same_tokens_with_and_without_speculation(engine):
    for seed in range(10):
        params = SamplingParams(
            max_tokens=64, temperature=1.2, seed=seed, stop="e", ignore_eos=True
        )
        off = engine.generate(PROMPT, params, speculation="off")
        on = engine.generate(PROMPT, params, speculation=8)
        assert (on.text, on.token_ids, on.finish_reason) == (
            off.text,
            off.token_ids,
            off.finish_reason,
        )


def test_pieces_of_n_texts_carry_their_index(engine):
    params = SamplingParams(max_tokens=20, temperature=1.0, seed=3, n=3, ignore_eos=True)
    whole = engine.generate(PROMPT, params)
    ids = {0: [], 1: [], 2: []}
    for piece in engine.stream(PROMPT, params):
        ids[piece.index] += piece.token_ids
    assert [ids[i] for i in range(3)] == [c.token_ids for c in whole.completions]


def test_leaving_a_stream_frees_the_slot(engine, settled):
    for _ in range(20):
        for piece in engine.stream(PROMPT, SamplingParams(max_tokens=2000, ignore_eos=True)):
            assert piece.token_ids
            break
    settled(engine)


def test_a_stream_never_read_frees_the_slot(engine, settled):
    for _ in range(20):
        engine.stream(PROMPT, SamplingParams(max_tokens=2000, ignore_eos=True))
    settled(engine)
