"""Law 2: the emitted tokens are identical with speculation on and off, however requests are run.

200 random requests x {greedy, T = 0.8 with seeds} x {off, block 2, 4, 8, auto} x {alone, batched,
chunked prefill}; the right answer is each request alone, without speculation. The drafter was
fitted to some of the prompts, so that rounds accept anything from nothing to whole blocks.
"""

import random

import pytest
import tiny

from kilotok import Engine, SamplingParams

NUM_REQUESTS = 200
SPECULATION = ["off", 2, 4, 8, "auto"]
TAUGHT = [[random.Random(i).randrange(197) for _ in range(6)] for i in range(4)]


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A checkpoint whose drafter knows the greedy continuations of `TAUGHT`."""
    path = tmp_path_factory.mktemp("taught")
    tiny.write(path, "pro", seed=11, teach_prompts=TAUGHT, teach_tokens=40)
    return path


def requests():
    """Prompts of 1 to 40 tokens, shorter and longer than the window; half of them taught ones."""
    rng = random.Random(2)
    for i in range(NUM_REQUESTS):
        if i % 2:
            prompt = rng.choice(TAUGHT)
        else:
            prompt = [rng.randrange(197) for _ in range(rng.randint(1, 40))]
        max_tokens = rng.randint(1, 36)
        for temperature in (0.0, 0.8):
            yield (
                prompt,
                SamplingParams(
                    max_tokens=max_tokens,
                    temperature=temperature,
                    seed=rng.getrandbits(64),
                    top_p=rng.choice((1.0, 0.95)) if temperature else 1.0,
                    repetition_penalty=rng.choice((1.0, 1.0, 1.2)),
                    stop_token_ids=(rng.randrange(197),),
                ),
            )


@pytest.fixture(scope="module")
def expected(taught):
    """Token ids of every request, alone and without speculation."""
    with Engine(taught, progress=False, max_batch=1, drafter=None) as engine:
        return [engine.generate(prompt, params).token_ids for prompt, params in requests()]


def run_alone(engine, speculation):
    return [engine.generate(prompt, p, speculation=speculation) for prompt, p in requests()]


def run_together(engine, speculation):
    """All at once: 16 run beside each other, in whatever company the queue gives them."""
    streams = [engine._submit(prompt, p, speculation) for prompt, p in requests()]
    return [stream.wait() for stream in streams]


@pytest.mark.parametrize("speculation", SPECULATION)
@pytest.mark.parametrize(
    ("run", "options"),
    [
        pytest.param(run_alone, {"max_batch": 1}, id="alone"),
        pytest.param(run_together, {"max_batch": 16}, id="batched"),
        pytest.param(run_together, {"max_batch": 8, "prefill_chunk": 3}, id="chunked"),
    ],
)
def test_law_2_lossless(taught, expected, run, options, speculation):
    with Engine(taught, progress=False, **options) as engine:
        outputs = run(engine, speculation)
        stats = engine.stats()
    different = [i for i, out in enumerate(outputs) if out.token_ids != expected[i]]
    assert not different, f"{len(different)} of {len(outputs)} differ, first: {different[:5]}"
    assert len(outputs) == 2 * NUM_REQUESTS
    if speculation == "off":
        assert stats["drafted"] == 0
    if speculation in (4, 8):
        # The law is only tested where drafts are both accepted and rejected, many times.
        assert stats["accepted"] > 100
        assert stats["drafted"] - stats["accepted"] > 100


def test_a_request_alone_in_a_full_batch(taught, expected):
    """The same request beside 15 different neighbours, again and again."""
    prompt, params = next(iter(requests()))
    rng = random.Random(5)
    with Engine(taught, progress=False, max_batch=16) as engine:
        for _ in range(10):
            others = [
                engine._submit(
                    [rng.randrange(197) for _ in range(rng.randint(1, 60))],
                    SamplingParams(max_tokens=40, temperature=1.0, ignore_eos=True),
                    rng.choice(SPECULATION),
                )
                for _ in range(15)
            ]
            assert engine.generate(prompt, params, speculation=8).token_ids == expected[0]
            for other in others:
                other.cancel()


DEMO_PROMPTS = [
    "import argparse\n",
    "class Stack:\n    def __init__(self):\n",
    "def main():\n    parser = argparse.ArgumentParser()\n",
    "for i in range(10):\n",
    "The function returns ",
    "12 + 30 = 42\n7 * 8 = ",
    '{"name": "get_weather", "arguments": {"city": "',
    "try:\n    import numpy as np\nexcept ",
]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_law_2_on_a_trained_model(temperature):
    """The demo checkpoint, whose drafter is right most of the time, sampled output included."""
    params = [
        SamplingParams(max_tokens=64, temperature=temperature, seed=i)
        for i in range(len(DEMO_PROMPTS))
    ]
    with Engine(progress=False, max_batch=1, drafter=None) as engine:
        expected = [
            engine.generate(prompt, p).token_ids
            for prompt, p in zip(DEMO_PROMPTS, params, strict=True)
        ]
    with Engine(progress=False, prefill_chunk=5) as engine:
        for speculation in SPECULATION:
            streams = [
                engine._submit(prompt, p, speculation)
                for prompt, p in zip(DEMO_PROMPTS, params, strict=True)
            ]
            assert [stream.wait().token_ids for stream in streams] == expected, speculation
        stats = engine.stats()
    tau = 1 + stats["accepted"] / stats["speculative_rounds"]
    assert tau > 1.5, "the drafter should be right more often than that"
