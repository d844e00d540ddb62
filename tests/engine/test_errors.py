"""Bad input is a typed error that names the parameter, and harms nobody else."""

import pickle

import pytest

import kilotok
from kilotok import (
    Engine,
    EngineDeadError,
    InvalidRequestError,
    ModelFormatError,
    NoGpuError,
    OutOfMemoryError,
    SamplingParams,
)


def test_one_base_class():
    names = [n for n in kilotok.__all__ if n.endswith("Error") and n != "Error"]
    assert len(names) == 7
    assert all(issubclass(getattr(kilotok, n), kilotok.Error) for n in names)
    assert issubclass(kilotok.Error, Exception)


def test_errors_survive_pickling():
    error = pickle.loads(pickle.dumps(InvalidRequestError("top_p", "too big")))
    assert (error.parameter, error.reason) == ("top_p", "too big")


@pytest.mark.parametrize("prompt", ["", [], [[]], ["", "x"], [[1], []]])
def test_empty_prompt(engine, prompt):
    with pytest.raises(InvalidRequestError) as caught:
        engine.generate(prompt)
    assert caught.value.parameter.startswith("prompt")


@pytest.mark.parametrize("prompt", [None, 7, b"bytes", {"a": 1}, [1.5], [1, "a"], [None], [True]])
def test_prompt_of_the_wrong_kind(engine, prompt):
    with pytest.raises(InvalidRequestError) as caught:
        engine.generate(prompt)
    assert caught.value.parameter.startswith("prompt")


@pytest.mark.parametrize("token", [-1, 288, 100_000, 2**32, 2**64])
def test_token_id_out_of_range(engine, token):
    with pytest.raises(InvalidRequestError, match=str(token)) as caught:
        engine.generate([1, token])
    assert caught.value.parameter == "prompt"


def test_text_without_a_tokenizer(ids_engine):
    with pytest.raises(InvalidRequestError, match=r"tokenizer\.json") as caught:
        ids_engine.generate("text")
    assert caught.value.parameter == "prompt"
    with pytest.raises(InvalidRequestError) as caught:
        ids_engine.generate([1], SamplingParams(stop="x"))
    assert caught.value.parameter == "stop"


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("temperature", v) for v in (-0.1, NAN, INF, 1e9, "hot", None, True)],
        *[("top_p", v) for v in (0.0, -1, 1.1, NAN)],
        *[("min_p", v) for v in (-0.1, 1.1, NAN)],
        *[("top_k", v) for v in (-1, 1.5, 2**32, True)],
        *[("repetition_penalty", v) for v in (0, -1, NAN, INF)],
        *[("presence_penalty", v) for v in (NAN, INF, 1e9)],
        *[("frequency_penalty", v) for v in (NAN, -INF)],
        *[("max_tokens", v) for v in (0, -1, 2**32, 2**63, 1.0)],
        *[("logprobs", v) for v in (-1, 65, 2**40)],
        *[("n", v) for v in (0, -1, 257, 2.0)],
        *[("seed", v) for v in (-1, 2**64, "s")],
        *[("stop", v) for v in ("", [""], [1], ["x" * 100_000])],
        *[("stop_token_ids", v) for v in ([-1], [288], ["x"], [2**40])],
        *[("logit_bias", v) for v in ({-1: 1.0}, {288: 1.0}, {1: NAN}, {1: INF}, {1: 1e6})],
    ],
)
def test_sampling_value_out_of_range(engine, field, value):
    with pytest.raises(InvalidRequestError) as caught:
        engine.generate("x", SamplingParams(**{field: value}))
    assert caught.value.parameter == field


@pytest.mark.parametrize("max_tokens", [10**6, 2**31, 2**32 - 1])
def test_huge_max_tokens_is_refused_at_once(engine, max_tokens):
    with pytest.raises((InvalidRequestError, OutOfMemoryError)):
        engine.generate("x", SamplingParams(max_tokens=max_tokens))


def test_a_request_that_can_never_fit(checkpoint):
    with Engine(checkpoint("pro"), progress=False, kv_tokens=128) as engine:
        engine.generate([1, 2, 3], SamplingParams(max_tokens=16))
        with pytest.raises((OutOfMemoryError, InvalidRequestError)):
            engine.generate([1] * 100, SamplingParams(max_tokens=400))
        engine.generate([1, 2, 3], SamplingParams(max_tokens=16))


@pytest.mark.parametrize("speculation", ["on", "", 0, -1, 9, 10**9, 1.5, None.__class__])
def test_speculation_out_of_range(engine, speculation):
    with pytest.raises(InvalidRequestError) as caught:
        engine.generate("x", speculation=speculation)
    assert caught.value.parameter == "speculation"


def test_speculation_without_a_drafter(checkpoint):
    with Engine(checkpoint("v26"), drafter=None, progress=False) as engine:
        with pytest.raises(InvalidRequestError) as caught:
            engine.generate("x", speculation=4)
        assert caught.value.parameter == "speculation"
        engine.generate("x", SamplingParams(max_tokens=4), speculation="auto")


def test_unknown_arguments(engine, checkpoint):
    with pytest.raises(TypeError):
        SamplingParams(max_token=3)
    with pytest.raises(TypeError):
        SamplingParams(3)
    with pytest.raises(TypeError):
        Engine(checkpoint(), max_bach=3)
    with pytest.raises(TypeError):
        Engine(checkpoint(), "cpu")
    with pytest.raises(InvalidRequestError):
        engine.generate("x", {"max_tokens": 3})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("device", "tpu"),
        ("simd", "mmx"),
        ("threads", 0),
        ("max_batch", 0),
        ("max_positions", 0),
        ("kv_tokens", 0),
        ("speculation", "maybe"),
    ],
)
def test_engine_option_out_of_range(checkpoint, option, value):
    with pytest.raises(InvalidRequestError) as caught:
        Engine(checkpoint("pro"), progress=False, **{option: value})
    assert caught.value.parameter == option


def test_a_gpu_that_is_not_there(checkpoint):
    with pytest.raises(NoGpuError):
        Engine(checkpoint("pro"), progress=False, device="cuda")


def test_law_7_directories_that_are_not_checkpoints(tmp_path, checkpoint):
    with pytest.raises(ModelFormatError, match=r"config\.json"):
        Engine(tmp_path, progress=False)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelFormatError, match=r"config\.json"):
        Engine(tmp_path, progress=False)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ModelFormatError, match="gpt2"):
        Engine(tmp_path, progress=False)
    with pytest.raises(ModelFormatError):
        Engine(tmp_path / "nowhere", progress=False)
    (tmp_path / "config.json").write_bytes((checkpoint("pro") / "config.json").read_bytes())
    with pytest.raises(ModelFormatError, match="safetensors"):
        Engine(tmp_path, progress=False)


def test_a_failed_request_leaves_the_others_alone(engine):
    params = SamplingParams(max_tokens=64, ignore_eos=True)
    expected = engine.generate("the ", params).token_ids
    stream = engine.stream("the ", params)
    ids = list(next(stream).token_ids)
    for _ in range(50):
        with pytest.raises(InvalidRequestError):
            engine.generate([1, 10**6])
    for piece in stream:
        ids += piece.token_ids
    assert ids == expected


def test_after_close_every_call_raises_the_same(checkpoint):
    engine = Engine(checkpoint(), progress=False)
    engine.close()
    engine.close()
    messages = [{"role": "user", "content": "x"}]
    for call in (
        lambda: engine.generate("x"),
        lambda: engine.generate([1]),
        lambda: engine.generate(["x", "y"]),
        lambda: engine.stream("x"),
        lambda: engine.stream_async("x"),
        lambda: engine.chat(messages),
        lambda: engine.stream_chat(messages),
        lambda: engine.encode("x"),
        lambda: engine.decode([1]),
        engine.stats,
        engine.memory,
        engine.info,
        lambda: engine.has_tokenizer,
        lambda: engine.__enter__(),
    ):
        with pytest.raises(EngineDeadError, match="closed"):
            call()
