"""Constrained output through the clients' own helpers: what they parse without error is right."""

import json
from typing import Literal

import pytest

openai = pytest.importorskip("openai", reason="the openai client is not installed")
pydantic = pytest.importorskip("pydantic", reason="pydantic is not installed")

MESSAGES = [{"role": "user", "content": "Describe the weather in Bern."}]
SHORT = {"model": "demo", "messages": MESSAGES, "extra_body": {"thinking_token_budget": 16}}


class Day(pydantic.BaseModel):
    """A forecast whose every part is short."""

    model_config = pydantic.ConfigDict(extra="forbid")

    city: Literal["Bern", "Oslo"]
    sky: Literal["clear", "cloudy", "rain"]
    degrees: int = pydantic.Field(ge=-30, le=45)
    windy: bool


SCHEMA = Day.model_json_schema()
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": SCHEMA}}
    for name in ("forecast", "record")
]


def test_chat_parse(client):
    for seed in range(3):
        reply = client.chat.completions.parse(
            **SHORT, response_format=Day, max_tokens=400, seed=seed
        )
        message = reply.choices[0].message
        assert isinstance(message.parsed, Day)
        assert Day.model_validate_json(message.content) == message.parsed


def test_a_parsed_stream(client):
    with client.chat.completions.stream(
        **SHORT, response_format=Day, max_tokens=400, seed=1
    ) as stream:
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Day)


def test_responses_parse(client):
    reply = client.responses.parse(
        model="demo", input="Describe it.", text_format=Day, max_output_tokens=1500
    )
    if reply.status == "completed":
        assert isinstance(reply.output_parsed, Day)


@pytest.mark.parametrize("speculation", ["off", "auto", 8])
def test_speculation_changes_nothing(client, speculation):
    def ask(**extra):
        reply = client.chat.completions.create(
            model="demo",
            messages=MESSAGES,
            max_tokens=400,
            seed=7,
            response_format={"type": "json_schema", "json_schema": {"name": "d", "schema": SCHEMA}},
            extra_body={"thinking_token_budget": 16, **extra},
        )
        return reply.choices[0].message.content

    text = ask(speculation=speculation)
    Day.model_validate_json(text)
    assert text == ask()


def test_a_required_call(client):
    for seed in range(3):
        reply = client.chat.completions.create(
            **SHORT,
            tools=TOOLS,
            tool_choice="required",
            max_tokens=500,
            seed=seed,
            parallel_tool_calls=False,
        )
        choice = reply.choices[0]
        (call,) = choice.message.tool_calls
        assert choice.finish_reason == "tool_calls"
        assert call.function.name in {"forecast", "record"}
        Day.model_validate_json(call.function.arguments)


def test_a_named_call_in_a_stream(client):
    name, arguments = None, ""
    for chunk in client.chat.completions.create(
        **SHORT,
        tools=TOOLS,
        tool_choice={"type": "function", "function": {"name": "record"}},
        max_tokens=500,
        stream=True,
    ):
        for call in chunk.choices[0].delta.tool_calls or []:
            name = call.function.name or name
            arguments += call.function.arguments or ""
    assert name == "record"
    Day.model_validate_json(arguments)


def test_a_tool_of_the_strict_helper(client):
    """What `pydantic_function_tool` makes is strict, and is taken."""
    tool = openai.pydantic_function_tool(Day, name="forecast")
    reply = client.chat.completions.parse(
        **SHORT, tools=[tool], tool_choice="required", parallel_tool_calls=False, max_tokens=500
    )
    (call,) = reply.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Day)


def test_the_spellings_of_others(client):
    def text(**extra):
        reply = client.completions.create(
            model="demo", prompt="The answer is ", max_tokens=60, extra_body=extra
        )
        assert reply.choices[0].finish_reason == "stop"
        return reply.choices[0].text

    assert text(guided_choice=["yes", "no"]) in {"yes", "no"}
    assert len(text(guided_regex="[0-9]{5}")) == 5
    assert text(structured_outputs={"grammar": 'start: "a" "b"'}) == "ab"
    assert json.loads(text(guided_json={"enum": [3, 4]})) in {3, 4}
    assert text(guided_choice=["x"], priority=-1) == "x"


def test_anthropic_forces_a_tool(server):
    anthropic = pytest.importorskip("anthropic", reason="the anthropic client is not installed")
    client = anthropic.Anthropic(base_url=server.url, api_key="test-key", max_retries=0)
    for choice in ({"type": "any"}, {"type": "tool", "name": "forecast"}):
        reply = client.messages.create(
            model="demo",
            max_tokens=500,
            messages=MESSAGES,
            tools=[{"name": "forecast", "input_schema": SCHEMA}],
            tool_choice={**choice, "disable_parallel_tool_use": True},
            extra_body={"thinking": {"type": "enabled", "budget_tokens": 16}},
        )
        assert reply.stop_reason == "tool_use"
        (call,) = [block for block in reply.content if block.type == "tool_use"]
        Day.model_validate(call.input)


def test_what_cannot_be_honoured_is_named(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**SHORT, tool_choice="required")
    assert caught.value.param == "tool_choice"
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="demo", prompt="x", extra_body={"guided_regex": "("})
    assert caught.value.param == "guided_regex"
