"""Generate from the demo checkpoint on a GPU, through Python, in both modes; JSON on stdout.

Prompts are greedy, one after the other on a hot engine. Every figure is a median over prompts of
one request each, after one that warms up; graph mode makes one launch per round from the host.
"""

import json
import statistics
import sys
import time

from kilotok import Engine, SamplingParams

PROMPTS = [
    "import argparse\n",
    "class Stack:\n    def __init__(self):\n",
    "def main():\n    parser = argparse.ArgumentParser()\n",
    "for i in range(10):\n",
    '{"name": "get_weather", "arguments": {"city": "',
    "12 + 30 = 42\n7 * 8 = ",
]
TOKENS = 512


def measure(engine: Engine, speculation: object) -> dict:
    """Tokens per second of whole requests, first-token latency of a 16-token prompt, tau."""
    params = SamplingParams(max_tokens=TOKENS, ignore_eos=True)
    engine.generate(PROMPTS[0], params, speculation=speculation)
    rates, taus, tokens, seconds = [], [], 0, 0.0
    for prompt in PROMPTS:
        start = time.perf_counter()
        output = engine.generate(prompt, params, speculation=speculation)
        elapsed = time.perf_counter() - start
        rates.append(len(output.token_ids) / elapsed)
        taus.append(output.receipt.tau)
        tokens += len(output.token_ids)
        seconds += elapsed
    short = SamplingParams(max_tokens=1, ignore_eos=True)
    first = []
    for i in range(200):
        start = time.perf_counter()
        engine.generate([3 + (7 * i + j) % 250 for j in range(16)], short, speculation=speculation)
        first.append(1e6 * (time.perf_counter() - start))
    return {
        "tokens_per_s": statistics.median(rates),
        "tokens_per_s_pooled": tokens / seconds,
        "tau": statistics.median(taus),
        "first_token_us": statistics.median(first),
    }


def main() -> int:
    """Print a table on stderr and JSON on stdout."""
    rows = []
    for device, mode in (("cuda", "persistent"), ("cuda", "graph"), ("cpu", None)):
        options = {"device": device} if mode is None else {"device": device, "mode": mode}
        with Engine(progress=False, **options) as engine:
            for speculation in ("off", 8, "auto"):
                row = {"device": device, "mode": mode, "speculation": speculation}
                row |= measure(engine, speculation)
                rows.append(row)
                print(
                    f"{device} {mode or '':10} {speculation!s:4} {row['tokens_per_s']:9.0f} tok/s"
                    f"  tau {row['tau']:.2f}  first token {row['first_token_us']:.0f} us",
                    file=sys.stderr,
                )
    print(json.dumps({"tokens_per_request": TOKENS, "requests": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
