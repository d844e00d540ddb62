"""Stream an answer through LangChain (``pip install langchain-openai``)."""

import os
import sys

from langchain_openai import ChatOpenAI

model = ChatOpenAI(
    model=os.environ.get("KILOTOK_MODEL_NAME", "demo"),
    base_url=os.environ.get("KILOTOK_URL", "http://127.0.0.1:8000") + "/v1",
    api_key=os.environ.get("KILOTOK_API_KEY", "none"),
    max_tokens=60,
    stream_usage=True,
)
answer = None
for chunk in model.stream("Tell me about the river."):
    sys.stdout.write(chunk.text)
    sys.stdout.flush()
    answer = chunk if answer is None else answer + chunk
usage = answer.usage_metadata
print(f"\n# tokens: {usage['input_tokens']} in, {usage['output_tokens']} out")
