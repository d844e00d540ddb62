"""Awaiting and streaming inside an event loop."""

import asyncio
import time

import pytest

from kilotok import InvalidRequestError, SamplingParams

PROMPT = "the in"
SHORT = SamplingParams(max_tokens=24, temperature=0.9, seed=1, ignore_eos=True)
ENDLESS = SamplingParams(max_tokens=4000, ignore_eos=True)


def test_generate_async_equals_generate(engine):
    out = asyncio.run(engine.generate_async(PROMPT, SHORT))
    whole = engine.generate(PROMPT, SHORT)
    assert (out.text, out.token_ids) == (whole.text, whole.token_ids)


def test_a_list_comes_back_in_order(engine):
    prompts = [f"the {i}" for i in range(40)]
    outs = asyncio.run(engine.generate_async(prompts, SHORT))
    assert [o.prompt_token_ids for o in outs] == [engine.encode(p) for p in prompts]
    assert outs[5].token_ids == engine.generate(prompts[5], SHORT).token_ids


def test_stream_async_equals_generate(engine):
    async def collect():
        return [piece async for piece in engine.stream_async(PROMPT, SHORT)]

    pieces = asyncio.run(collect())
    whole = engine.generate(PROMPT, SHORT)
    assert "".join(p.text for p in pieces) == whole.text
    assert [t for p in pieces for t in p.token_ids] == whole.token_ids
    assert pieces[-1].finish_reason == whole.finish_reason


def test_many_tasks_share_the_engine(engine, settled):
    async def run():
        params = [
            SamplingParams(max_tokens=16, temperature=1.0, seed=i, ignore_eos=True)
            for i in range(30)
        ]
        outs = await asyncio.gather(*(engine.generate_async(PROMPT, p) for p in params))
        return params, outs

    params, outs = asyncio.run(run())
    for p, out in list(zip(params, outs, strict=True))[::7]:
        assert out.token_ids == engine.generate(PROMPT, p).token_ids
    settled(engine)


def test_the_loop_keeps_running(engine):
    """A generation may not block the event loop."""

    async def run():
        beats = 0

        async def beat():
            nonlocal beats
            while True:
                await asyncio.sleep(0.001)
                beats += 1

        heart = asyncio.create_task(beat())
        await engine.generate_async(PROMPT, SamplingParams(max_tokens=1000, ignore_eos=True))
        heart.cancel()
        return beats

    assert asyncio.run(run()) >= 5


def test_cancelling_the_task_frees_the_slot(engine, settled):
    async def run():
        task = asyncio.create_task(engine.generate_async(PROMPT, ENDLESS))
        while not engine.stats()["running"]:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    before = engine.stats()["cancelled"]
    asyncio.run(run())
    settled(engine)
    assert engine.stats()["cancelled"] == before + 1


def test_a_timeout_frees_the_slot(engine, settled):
    async def run():
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(engine.generate_async([[1], [2], [3]], ENDLESS), 0.05)
        return time.monotonic() - start

    assert asyncio.run(run()) < 5
    settled(engine)


def test_leaving_an_async_stream_frees_the_slot(engine, settled):
    async def run():
        async for piece in engine.stream_async(PROMPT, ENDLESS):
            assert piece.token_ids
            break

    for _ in range(10):
        asyncio.run(run())
    settled(engine)


def test_cancelling_one_leaves_the_others(engine, settled):
    async def run():
        doomed = [asyncio.create_task(engine.generate_async(PROMPT, ENDLESS)) for _ in range(4)]
        kept = asyncio.create_task(engine.generate_async(PROMPT, SHORT))
        await asyncio.sleep(0.01)
        for task in doomed:
            task.cancel()
        await asyncio.gather(*doomed, return_exceptions=True)
        return await kept

    assert asyncio.run(run()).token_ids == engine.generate(PROMPT, SHORT).token_ids
    settled(engine)


def test_errors_are_the_same_as_without_a_loop(engine, settled):
    async def run(prompt, params=None):
        await engine.generate_async(prompt, params)

    with pytest.raises(InvalidRequestError) as caught:
        asyncio.run(run([]))
    assert caught.value.parameter == "prompt"
    with pytest.raises(InvalidRequestError) as caught:
        asyncio.run(run([[1], [2], [10**6]]))
    assert caught.value.parameter == "prompt"
    settled(engine)


def test_n_texts(engine):
    params = SamplingParams(max_tokens=12, temperature=1.0, seed=3, n=3, ignore_eos=True)
    out = asyncio.run(engine.generate_async(PROMPT, params))
    whole = engine.generate(PROMPT, params)
    assert [c.token_ids for c in out.completions] == [c.token_ids for c in whole.completions]
