"""Whatever is passed in: a typed error or an answer, never anything else, and never a hang."""

import random

import pytest

from kilotok import Error, Output, SamplingParams

ODD = [
    *(None, True, False, 0, 1, -1, 2, 7, 255, 288, 2**31, 2**32, 2**63, 2**64, 10**400),
    *(
        0.0,
        -0.0,
        0.5,
        1.0,
        1.5,
        -1.0,
        1e-45,
        1e30,
        1e300,
        float("nan"),
        float("inf"),
        -float("inf"),
    ),
    *(
        "",
        "x",
        "the",
        "€",
        "\0",
        "\ud800",
        "off",
        "auto",
        b"x",
        (),
        [],
        {},
        [0],
        [1, 2],
        [-1],
        ["x"],
    ),
    *([None], [[1]], {1: 1.0}, {1: None}, {"x": 1}, {-1: 0.0}, {2**40: 1}, object(), lambda: 1),
]
FIELDS = list(SamplingParams.__dataclass_fields__)


def outcome(call):
    """The output, or the typed error that came instead."""
    try:
        return call()
    except Error as error:
        return error


@pytest.mark.parametrize("seed", range(8))
def test_sampling_values(engine, settled, seed):
    rng = random.Random(seed)
    counts = {True: 0, False: 0}
    for _ in range(300):
        fields = {"max_tokens": 2}
        fields |= {rng.choice(FIELDS): rng.choice(ODD) for _ in range(rng.randint(1, 2))}
        if fields["max_tokens"] is None:
            fields["max_tokens"] = 2
        got = outcome(lambda fields=fields: engine.generate([1, 2], SamplingParams(**fields)))
        assert isinstance(got, Output | Error), fields
        counts[isinstance(got, Output)] += 1
    assert min(counts.values()) > 10
    settled(engine)


def test_prompts_and_speculation(engine, settled):
    params = SamplingParams(max_tokens=2)
    for prompt in ODD:
        got = outcome(lambda prompt=prompt: engine.generate(prompt, params))
        assert isinstance(got, Output | Error | list), prompt
        if isinstance(got, Output):
            assert prompt
    for speculation in ODD:
        got = outcome(lambda s=speculation: engine.generate([1], params, speculation=s))
        assert isinstance(got, Output | Error), speculation
    settled(engine)


def test_numbers_of_numpy_are_numbers(engine):
    np = pytest.importorskip("numpy")
    params = SamplingParams(
        max_tokens=np.int64(6), temperature=np.float32(0.5), seed=np.uint64(3), top_k=np.int8(5)
    )
    plain = SamplingParams(max_tokens=6, temperature=0.5, seed=3, top_k=5)
    assert engine.generate([1], params).token_ids == engine.generate([1], plain).token_ids


def test_messages(engine, settled):
    params = SamplingParams(max_tokens=2)
    for odd in ODD:
        roles = [{"role": odd, "content": "x"}], [{"role": "user", "content": odd}]
        for messages in (odd, [odd], *roles):
            got = outcome(lambda messages=messages: engine.chat(messages, params))
            assert isinstance(got, Output | Error), messages
    settled(engine)
