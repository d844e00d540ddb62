"""Law 2 on gpt-oss: tokens are the same with and without its drafter, however requests run."""

import random

import pytest
import tiny

from kilotok import Engine, SamplingParams

VOCAB = tiny.PRESETS["gptoss"].vocab
TAUGHT = [[random.Random(i).randrange(VOCAB) for _ in range(6)] for i in range(4)]


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A checkpoint whose drafter knows the greedy continuations of `TAUGHT`."""
    path = tmp_path_factory.mktemp("taught")
    tiny.write(path, "gptoss", seed=11, teach_prompts=TAUGHT, teach_tokens=40)
    return path


def requests():
    """Prompts shorter and longer than the window of 7 and the 16 positions before stretching."""
    rng = random.Random(2)
    for i in range(60):
        taught = [rng.choice(TAUGHT), [rng.randrange(VOCAB) for _ in range(rng.randint(1, 40))]]
        for temperature in (0.0, 0.8):
            params = SamplingParams(
                max_tokens=rng.randint(1, 36), temperature=temperature, seed=rng.getrandbits(64)
            )
            yield taught[i % 2], params


@pytest.fixture(scope="module")
def expected(taught):
    """Token ids of every request, alone and without speculation."""
    with Engine(taught, progress=False, max_batch=1, drafter=None) as engine:
        return [engine.generate(prompt, params).token_ids for prompt, params in requests()]


@pytest.mark.parametrize("speculation", ["off", 2, 8, "auto"])
@pytest.mark.parametrize(
    "options",
    [{"max_batch": 1}, {"max_batch": 16}, {"max_batch": 8, "prefill_chunk": 3}],
    ids=["alone", "batched", "chunked"],
)
def test_law_2_lossless(taught, expected, options, speculation):
    with Engine(taught, progress=False, **options) as engine:
        streams = [engine._submit(prompt, p, speculation) for prompt, p in requests()]
        outputs = [stream.wait().token_ids for stream in streams]
        stats = engine.stats()
    assert outputs == expected
    if speculation == 8:
        # The law is only tested where drafts are both accepted and rejected, many times.
        assert stats["accepted"] > 50
        assert stats["drafted"] - stats["accepted"] > 50
