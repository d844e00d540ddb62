"""Stream an answer with the ``openai`` package, with and without speculation."""

import os
import sys

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("KILOTOK_URL", "http://127.0.0.1:8000") + "/v1",
    api_key=os.environ.get("KILOTOK_API_KEY", "none"),
)
model = client.models.list().data[0].id

for speculation in ("off", "auto"):
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Tell me about the river."}],
        max_tokens=60,
        seed=1,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"speculation": speculation},
    )
    for chunk in stream:
        if chunk.choices:
            sys.stdout.write(chunk.choices[0].delta.content or "")
            sys.stdout.flush()
        else:
            (receipt,) = chunk.usage.receipts
            print(
                f"\n# speculation {speculation}: {receipt['tokens_per_s']:.0f} tok/s, "
                f"tau {receipt['tau']:.2f}\n"
            )
