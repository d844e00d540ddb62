"""Anthropic's Python client against the program."""

import pytest

anthropic = pytest.importorskip("anthropic", reason="the anthropic client is not installed")

MESSAGES = [{"role": "user", "content": "Tell me about the river."}]


@pytest.fixture(scope="module")
def claude(server):
    return anthropic.Anthropic(base_url=server.url, api_key="test-key", max_retries=0)


def test_a_message(claude):
    reply = claude.messages.create(
        model="demo",
        max_tokens=20,
        messages=MESSAGES,
        system="Be brief.",
        extra_body={"temperature": 0},
    )
    assert reply.role == "assistant"
    assert reply.stop_reason in {"end_turn", "max_tokens", "tool_use"}
    assert reply.usage.output_tokens <= 20
    count = claude.messages.count_tokens(model="demo", messages=MESSAGES, system="Be brief.")
    usage = reply.usage
    assert count.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


def test_the_streaming_helper(claude):
    options = {"model": "demo", "max_tokens": 30, "messages": MESSAGES}
    options["extra_body"] = {"temperature": 0}
    whole = claude.messages.create(**options)
    with claude.messages.stream(**options) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert [block.type for block in final.content] == [block.type for block in whole.content]
    assert text == "".join(block.text for block in whole.content if block.type == "text")
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_tools_and_results(claude):
    tools = [{"name": "weather", "description": "d", "input_schema": {"type": "object"}}]
    history = [
        *MESSAGES,
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "t1", "name": "weather", "input": {}}],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "rain"}],
        },
    ]
    reply = claude.messages.create(model="demo", max_tokens=10, messages=history, tools=tools)
    assert reply.usage.input_tokens + reply.usage.cache_read_input_tokens > 10


def test_errors(claude, server):
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(model="other", max_tokens=5, messages=MESSAGES)
    with pytest.raises(anthropic.BadRequestError, match="tool_choice"):
        claude.messages.create(
            model="demo", max_tokens=5, messages=MESSAGES, tool_choice={"type": "any"}
        )
    wrong = anthropic.Anthropic(base_url=server.url, api_key="wrong", max_retries=0)
    with pytest.raises(anthropic.AuthenticationError):
        wrong.messages.create(model="demo", max_tokens=5, messages=MESSAGES)
