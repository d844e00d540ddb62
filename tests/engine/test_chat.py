"""Chat: the checkpoint's own template, around the same engine."""

import asyncio

import pytest

from kilotok import Engine, InvalidRequestError, SamplingParams

MESSAGES = [
    {"role": "system", "content": "be the one"},
    {"role": "user", "content": "hi on there"},
]
RENDERED = (
    "<|im_start|>system\nbe the one<|im_end|><|im_start|>user\nhi on there<|im_end|>"
    "<|im_start|>assistant\n"
)
PARAMS = SamplingParams(max_tokens=20, temperature=1.0, seed=5, ignore_eos=True)


def test_the_template_makes_the_prompt(engine):
    out = engine.chat(MESSAGES, PARAMS)
    assert out.prompt_token_ids == engine.encode(RENDERED)
    assert engine.decode(out.prompt_token_ids, skip_special_tokens=False) == RENDERED
    assert out.token_ids == engine.generate(RENDERED, PARAMS).token_ids


def test_streaming_and_awaiting_give_the_same(engine):
    out = engine.chat(MESSAGES, PARAMS)
    pieces = list(engine.stream_chat(MESSAGES, PARAMS))
    assert "".join(p.text for p in pieces) == out.text
    assert asyncio.run(engine.chat_async(MESSAGES, PARAMS)).token_ids == out.token_ids


@pytest.mark.parametrize(
    "messages",
    [
        [],
        "hi",
        {"role": "user"},
        None,
        [None],
        ["hi"],
        [{}],
        [{"role": 1}],
        [{"content": "x"}],
        [{"role": "user", "content": 7}],
        [{"role": "user", "content": object()}],
    ],
)
def test_malformed_messages(engine, messages):
    with pytest.raises(InvalidRequestError) as caught:
        engine.chat(messages)
    assert caught.value.parameter.startswith("messages")


def test_a_model_without_a_template_says_so(checkpoint, ids_engine, tmp_path):
    with pytest.raises(InvalidRequestError, match="tokenizer"):
        ids_engine.chat(MESSAGES)
    source = checkpoint("v26")
    for file in source.iterdir():
        if file.name != "tokenizer_config.json":
            (tmp_path / file.name).symlink_to(file)
    with Engine(tmp_path, progress=False) as engine:
        engine.generate("x", SamplingParams(max_tokens=2))
        with pytest.raises(InvalidRequestError, match="template"):
            engine.chat(MESSAGES)


def test_a_hostile_template_cannot_reach_out(checkpoint, tmp_path):
    for file in checkpoint("v26").iterdir():
        if file.name != "tokenizer_config.json":
            (tmp_path / file.name).symlink_to(file)
    template = "{{ ''.__class__.__mro__[1].__subclasses__() }}{% include '/etc/passwd' %}"
    (tmp_path / "chat_template.jinja").write_text(template)
    with Engine(tmp_path, progress=False) as engine, pytest.raises(InvalidRequestError):
        engine.chat(MESSAGES)
