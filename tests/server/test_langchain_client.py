"""LangChain's ``ChatOpenAI`` against the program."""

import pytest

langchain_openai = pytest.importorskip(
    "langchain_openai", reason="langchain-openai is not installed"
)

QUESTION = [("system", "You are brief."), ("human", "Tell me about the river.")]


@pytest.fixture
def chat(server):
    def build(**options):
        return langchain_openai.ChatOpenAI(
            model="demo",
            base_url=f"{server.url}/v1",
            api_key="test-key",
            max_retries=0,
            **{"max_tokens": 30, "seed": 3, **options},
        )

    return build


def test_a_stream_adds_up_to_the_reply(chat):
    whole = chat().invoke(QUESTION)
    assert whole.usage_metadata["output_tokens"] <= 30
    assert whole.response_metadata["finish_reason"] in {"stop", "length"}
    streamed = None
    for chunk in chat(stream_usage=True).stream(QUESTION):
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed.content == whole.content
    assert streamed.usage_metadata["output_tokens"] == whole.usage_metadata["output_tokens"]


def test_a_batch_gives_what_single_calls_give(chat):
    model = chat()
    questions = ["Tell me about the river.", "def quicksort(xs):", "What is it?"]
    alone = [model.invoke(question).content for question in questions]
    assert [reply.content for reply in model.batch(questions)] == alone


def test_tools_are_offered_and_calls_are_read(chat):
    def get_weather(city: str) -> str:
        """Say how the weather is in a city."""
        return city

    # The demo checkpoint was trained on such calls; whatever it writes can be read.
    calls = []
    for seed in range(6):
        reply = chat(seed=seed, max_tokens=80).bind_tools([get_weather]).invoke(QUESTION)
        assert not reply.invalid_tool_calls
        calls += reply.tool_calls
    assert all(isinstance(call["args"], dict) for call in calls)


def test_log_probabilities(chat):
    reply = chat(logprobs=True, top_logprobs=2, max_tokens=5).invoke(QUESTION)
    content = reply.response_metadata["logprobs"]["content"]
    assert len(content) == reply.usage_metadata["output_tokens"]


def test_errors_are_openais(chat):
    openai = pytest.importorskip("openai", reason="the openai client is not installed")
    with pytest.raises(openai.BadRequestError, match="temperature"):
        chat(temperature=-1).invoke(QUESTION)
