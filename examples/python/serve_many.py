"""Answer many prompts at once inside an event loop; one of them is given up halfway.

python examples/python/serve_many.py
"""

import asyncio

from kilotok import Engine, SamplingParams

PROMPTS = ["def add(a, b):\n", "class Stack:\n", "import json\n", "for i in range("]


async def main() -> None:
    """Run the prompts side by side and report what each cost."""
    params = SamplingParams(max_tokens=48, temperature=0.7, seed=1)
    with Engine() as engine:
        impatient = asyncio.create_task(
            engine.generate_async("while True:\n", SamplingParams(max_tokens=1000))
        )
        outputs = await engine.generate_async(PROMPTS, params)
        impatient.cancel()
        for prompt, output in zip(PROMPTS, outputs, strict=True):
            print(f"{prompt!r} -> {output.text!r}\n  {output.receipt}")
        print(engine.stats())


asyncio.run(main())
