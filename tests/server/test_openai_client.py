"""OpenAI's Python client against the program: what its types and helpers accept is right."""

import pytest

openai = pytest.importorskip("openai", reason="the openai client is not installed")

MESSAGES = [
    {"role": "system", "content": "You are brief."},
    {"role": "user", "content": "Tell me about the river."},
]


def test_models(client):
    models = client.models.list().data
    assert [model.id for model in models] == ["demo"]
    assert client.models.retrieve("demo").owned_by == "kilotok"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


def test_chat(client):
    reply = client.chat.completions.create(
        model="demo", messages=MESSAGES, max_completion_tokens=20, temperature=0
    )
    choice = reply.choices[0]
    assert choice.message.role == "assistant"
    assert choice.finish_reason in {"stop", "length"}
    assert reply.usage.completion_tokens <= 20
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.id.startswith("chatcmpl-")
    assert len(reply.usage.receipts) == 1
    assert reply.metrics["speculative_decoding"]["num_spec_tokens"] == 7


def test_a_stream_adds_up_to_the_reply(client):
    options = {"model": "demo", "messages": MESSAGES, "max_tokens": 40, "seed": 3, "n": 2}
    whole = client.chat.completions.create(**options)
    texts = ["", ""]
    reasons = [None, None]
    usage = None
    stream = client.chat.completions.create(
        **options, stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        if not chunk.choices:
            usage = chunk.usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == [choice.message.content for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert usage.completion_tokens == whole.usage.completion_tokens


def ask_at_length(client, **options):
    """Text long enough to cut, the same every time."""
    reply = client.chat.completions.create(
        model="demo",
        messages=MESSAGES,
        max_tokens=30,
        seed=11,
        extra_body={"ignore_eos": True},
        **options,
    )
    return reply.choices[0]


def test_the_streaming_helper(client):
    # The helper raises for answers that were cut off, so this one ends by a stop string.
    text = ask_at_length(client).message.content
    with client.chat.completions.stream(
        model="demo",
        messages=MESSAGES,
        max_tokens=30,
        seed=11,
        stop=[text[10:13]],
        extra_body={"ignore_eos": True},
    ) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert final.choices[0].finish_reason == "stop"
    assert "".join(deltas) == final.choices[0].message.content == text[: text.index(text[10:13])]


def test_logprobs(client):
    reply = client.chat.completions.create(
        model="demo", messages=MESSAGES, max_tokens=8, temperature=0, logprobs=True, top_logprobs=5
    )
    content = reply.choices[0].logprobs.content
    assert len(content) == reply.usage.completion_tokens
    for position in content:
        assert len(position.top_logprobs) == 5
        assert position.logprob == position.top_logprobs[0].logprob <= 0
        assert bytes(position.bytes).decode(errors="replace") == position.token


def test_sampling_is_repeatable_and_bias_decides(client):
    def once(**options):
        reply = client.completions.create(
            model="demo", prompt="The river", max_tokens=12, **options
        )
        return reply.choices[0].text

    assert once(seed=5, temperature=1.2) == once(seed=5, temperature=1.2)
    assert once(seed=5, temperature=1.2) != once(seed=6, temperature=1.2)
    only = once(temperature=0, logit_bias={"500": 9000}, extra_body={"ignore_eos": True})
    assert only == only[: len(only) // 12] * 12


def test_completions_of_token_ids(client):
    reply = client.completions.create(
        model="demo", prompt=[[500, 600], [700]], max_tokens=3, n=2, logprobs=2, temperature=1
    )
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    assert all(len(choice.logprobs.tokens) == 3 for choice in reply.choices)


def test_stop(client):
    text = ask_at_length(client).message.content
    stop = text[10:13]
    cut = ask_at_length(client, stop=[stop, "never in the text"])
    assert cut.message.content == text[: text.index(stop)]
    assert cut.finish_reason == "stop"
    assert cut.stop_reason == stop


@pytest.mark.parametrize("speculation", ["off", "auto", 5])
def test_speculation_never_changes_the_answer(client, speculation):
    def ask(**extra):
        reply = client.chat.completions.create(
            model="demo", messages=MESSAGES, max_tokens=40, seed=1, extra_body=extra
        )
        return reply.choices[0].message.content

    assert ask(speculation=speculation) == ask()


def test_errors_are_of_the_right_class_and_name_the_field(client, server):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="demo", messages=MESSAGES, temperature=-1)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="demo", messages=MESSAGES, response_format={"type": "json_schema"}
        )
    assert caught.value.param == "response_format.json_schema"
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="demo", prompt="x", max_tokens=10**6)
    assert caught.value.code == "context_length_exceeded"
    wrong = openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        wrong.models.list()


def test_a_stream_that_is_left_frees_its_slot(client, server):
    import time

    stream = client.chat.completions.create(
        model="demo",
        messages=MESSAGES,
        max_tokens=3000,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    next(iter(stream))
    stream.close()
    import httpx

    for _ in range(100):
        text = httpx.get(f"{server.url}/metrics", headers={"x-api-key": "test-key"}).text
        if 'vllm:num_requests_running{model_name="demo"} 0' in text:
            return
        time.sleep(0.05)
    raise AssertionError(text)


def test_retries_honour_the_queue(start):
    """A client with retries gets through an overload that it meets with 429 first."""
    import concurrent.futures

    busy = start("--max-queue", "0", "--max-batch", "1", "--simulate", "400")
    patient = openai.OpenAI(base_url=f"{busy.url}/v1", api_key="test-key", max_retries=20)
    blunt = patient.with_options(max_retries=0)

    def ask(client):
        # The simulated model may end a text anywhere.
        whole = {"ignore_eos": True}
        return client.completions.create(model="demo", prompt="x", max_tokens=60, extra_body=whole)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        patient_ones = [pool.submit(ask, patient) for _ in range(4)]
        blunt_ones = [pool.submit(ask, blunt) for _ in range(4)]
        refused = [future.exception() for future in blunt_ones if future.exception()]
        assert all(isinstance(error, openai.RateLimitError) for error in refused)
        assert all(int(error.response.headers["retry-after-ms"]) >= 50 for error in refused)
        assert refused
        assert all(future.result().usage.completion_tokens == 60 for future in patient_ones)


def test_a_retry_waits_as_long_as_the_server_asks(start):
    import itertools
    import time

    import httpx

    busy = start("--max-queue", "0", "--max-batch", "1", "--simulate", "100")
    seen = []
    hooks = {
        "request": [lambda request: seen.append((time.monotonic(), None))],
        "response": [lambda reply: seen.append((time.monotonic(), reply))],
    }
    patient = openai.OpenAI(
        base_url=f"{busy.url}/v1",
        api_key="test-key",
        max_retries=20,
        http_client=httpx.Client(event_hooks=hooks),
    )
    # One that is served says how long others take, and one that runs is in the way.
    whole = {"ignore_eos": True}
    patient.completions.create(model="demo", prompt="x", max_tokens=60, extra_body=whole)
    holding = openai.OpenAI(base_url=f"{busy.url}/v1", api_key="test-key").completions.create(
        model="demo", prompt="x", max_tokens=80, stream=True, extra_body=whole
    )
    next(holding)
    seen.clear()
    assert patient.completions.create(model="demo", prompt="x", max_tokens=3).usage
    holding.close()
    waits = 0
    for (at, reply), (again, _) in itertools.pairwise(seen):
        if reply is not None and reply.status_code == 429:
            asked = int(reply.headers["retry-after-ms"]) / 1000
            assert int(reply.headers["retry-after"]) >= asked
            assert asked * 0.99 <= again - at < asked + 1
            waits += 1
    assert waits > 0


WEATHER = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}


def test_responses(client):
    reply = client.responses.create(
        model="demo",
        input="Tell me about the river.",
        instructions="Be brief.",
        tools=[WEATHER],
        max_output_tokens=30,
        store=False,
    )
    assert reply.status in {"completed", "incomplete"}
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens
    assert all(item.type in {"message", "reasoning", "function_call"} for item in reply.output)
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="demo", input="x", previous_response_id="resp_1")
    assert caught.value.param == "previous_response_id"


def test_the_responses_helper(client):
    # The helper returns only what was completed, so a stop string ends this one.
    with client.responses.stream(
        model="demo",
        input="Tell me about the river.",
        max_output_tokens=100,
        extra_body={"stop": ["e", " ", "\n"]},
    ) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text
    assert final.status == "completed"


def test_tools_of_a_model_that_calls(client):
    """The demo checkpoint was trained on calls; whatever it writes, the client can read it."""
    tool = {"type": "function", "function": {k: WEATHER[k] for k in ("name", "parameters")}}
    for seed in range(6):
        options = {"model": "demo", "messages": MESSAGES, "tools": [tool], "seed": seed}
        whole = client.chat.completions.create(**options, max_tokens=60).choices[0]
        arguments: dict[int, str] = {}
        content = ""
        for chunk in client.chat.completions.create(**options, max_tokens=60, stream=True):
            delta = chunk.choices[0].delta
            content += delta.content or ""
            for call in delta.tool_calls or []:
                arguments[call.index] = arguments.get(call.index, "") + call.function.arguments
        assert content == (whole.message.content or "")
        calls = whole.message.tool_calls or []
        assert [call.function.arguments for call in calls] == [
            arguments[index] for index in range(len(calls))
        ]


def test_a_text_is_scored_as_it_was_generated(client):
    """What evaluation harnesses do: echo a text with log-probabilities and generate one token."""
    prompt = client.post("/../tokenize", body={"prompt": "The river was"}, cast_to=object)["tokens"]
    greedy = client.completions.create(
        model="demo",
        prompt=prompt,
        max_tokens=12,
        temperature=0,
        logprobs=1,
        extra_body={"return_token_ids": True, "ignore_eos": True},
    ).choices[0]
    scored = client.completions.create(
        model="demo", prompt=prompt + greedy.token_ids, max_tokens=1, logprobs=1, echo=True
    ).choices[0]
    given = scored.logprobs.token_logprobs[len(prompt) : -1]
    assert given == greedy.logprobs.token_logprobs
    tops = scored.logprobs.top_logprobs[len(prompt) : -1]
    assert all(logprob == max(top.values()) for logprob, top in zip(given, tops, strict=True))
    assert scored.logprobs.token_logprobs[0] is None
