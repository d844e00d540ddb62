"""1,000 requests submitted and cancelled at random moments: nothing leaks, nothing hangs."""

import contextlib
import random
import threading
import time

import pytest

from kilotok import CancelledError, Engine, SamplingParams


@pytest.fixture
def small(checkpoint):
    """Few slots and few pages, so that most requests wait."""
    with Engine(checkpoint("pro"), progress=False, max_batch=4, kv_tokens=2048) as engine:
        yield engine


def random_request(rng):
    prompt = [rng.randrange(197) for _ in range(rng.randint(1, 80))]
    params = SamplingParams(
        max_tokens=rng.choice((1, 8, 40, 200)),
        temperature=rng.choice((0.0, 1.0)),
        ignore_eos=True,
        seed=rng.getrandbits(64),
    )
    return prompt, params, rng.choice(("off", 2, 4, 8, "auto"))


def test_a_thousand_requests_cancelled_at_random_moments(small, settled):
    rng = random.Random(1)
    reference = small.generate([1, 2, 3], SamplingParams(max_tokens=30)).token_ids
    before = small.stats()
    live = []
    submitted = 0
    while submitted < 1000 or live:
        if submitted < 1000 and (not live or rng.random() < 0.6):
            live.append(small._submit(*random_request(rng)))
            submitted += 1
        else:
            generation = live.pop(rng.randrange(len(live)))
            action = rng.randrange(4)
            if action == 0:
                generation.cancel()
            elif action == 1:
                del generation
            elif action == 2:
                pieces = generation.pieces()
                for piece in pieces:
                    if piece.finish_reason is not None or rng.random() < 0.3:
                        break
                pieces.close()
            else:
                generation.cancel()
                # It may have ended before; what it may not do is wait.
                with contextlib.suppress(CancelledError):
                    generation.wait()
        if rng.random() < 0.2:
            time.sleep(rng.random() * 0.002)
    settled(small)
    after = small.stats()
    ended = after["finished"] + after["cancelled"] - before["finished"] - before["cancelled"]
    assert ended == 1000
    assert after["cancelled"] > before["cancelled"] + 100
    assert after["pages_total"] == before["pages_total"]
    # The whole cache is free again: a request that needs all of it is taken in, and is right.
    whole = SamplingParams(max_tokens=2048 - 3, ignore_eos=True)
    assert len(small.generate([1, 2, 3], whole).token_ids) == 2048 - 3
    assert small.generate([1, 2, 3], SamplingParams(max_tokens=30)).token_ids == reference


def test_cancelling_from_many_threads(small, settled):
    errors = []

    def run(seed):
        rng = random.Random(seed)
        try:
            for _ in range(25):
                generation = small._submit(*random_request(rng))
                timer = threading.Timer(rng.random() * 0.01, generation.cancel)
                timer.start()
                with contextlib.suppress(CancelledError):
                    generation.wait()
                timer.join()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    assert not errors
    settled(small)


def test_cancelling_twice_or_after_the_end_does_no_harm(small, settled):
    generation = small._submit([1, 2], SamplingParams(max_tokens=4), None)
    out = generation.wait()
    generation.cancel()
    generation.cancel()
    assert out.finish_reason in ("stop", "length")
    settled(small)
