"""Greedy decoding of the demo checkpoint on held-out code, speculation off beside on.

The prompts are pieces of the Jinja2 sources installed here: the checkpoint's MODEL_CARD.md names
Jinja2 among the packages held out of its training. Both settings run every prompt in turn, so that
a slow moment of the machine hits both. Prints JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
from pathlib import Path

from kilotok import Engine, SamplingParams

#: Characters of a prompt, about 150 tokens.
PROMPT_CHARS = 500


def prompts(count: int) -> list[str]:
    """`count` pieces of held-out code, from the middles of its largest files."""
    spec = importlib.util.find_spec("jinja2")
    if spec is None or spec.origin is None:
        raise SystemExit("cpu_speculation: Jinja2 is not installed (pip install jinja2)")
    files = sorted(Path(spec.origin).parent.glob("*.py"), key=lambda f: (-f.stat().st_size, f.name))
    pieces = []
    for file in files[:count]:
        text = file.read_text()
        start = text.index("\n", len(text) // 2) + 1
        pieces.append(text[start : start + PROMPT_CHARS])
    return pieces


def measure(engine: Engine, texts: list[str], tokens: int, settings: list, repeats: int) -> dict:
    """Tokens per second of each setting, from its fastest of `repeats` runs of each prompt."""
    params = SamplingParams(max_tokens=tokens, ignore_eos=True)
    rates: dict = {s: [] for s in settings}
    emitted: dict = dict.fromkeys(settings, 0)
    rounds: dict = dict.fromkeys(settings, 0)
    for text in texts:
        outputs = set()
        best = dict.fromkeys(settings, 0.0)
        for _ in range(repeats):
            for setting in settings:
                out = engine.generate(text, params, speculation=setting)
                outputs.add(tuple(out.token_ids))
                best[setting] = max(best[setting], out.receipt.tokens_per_s)
        if len(outputs) != 1:
            raise SystemExit("cpu_speculation: the settings disagree about the tokens")
        for setting in settings:
            out = engine.generate(text, params, speculation=setting)
            rates[setting].append(best[setting])
            histogram = out.receipt.accepted_histogram
            rounds[setting] += sum(histogram)
            emitted[setting] += sum(n * (a + 1) for a, n in enumerate(histogram))
    plain = rates["off"]
    return {
        str(setting): {
            "tokens_per_s_median": statistics.median(rates[setting]),
            "over_off": sum(1 / r for r in plain) / sum(1 / r for r in rates[setting]),
            "tau_pooled": emitted[setting] / rounds[setting] if rounds[setting] else None,
        }
        for setting in settings
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    texts = prompts(args.prompts)
    with Engine(progress=False) as engine:
        engine.generate(texts[0], SamplingParams(max_tokens=32))
        result = measure(engine, texts, args.tokens, ["off", 4, 8, "auto"], args.repeats)
    json.dump(
        {
            "benchmark": "greedy decode of held-out code (Jinja2), same tokens in every setting",
            "prompts": len(texts),
            "tokens": args.tokens,
            "load_average": os.getloadavg()[0],
            "settings": result,
        },
        sys.stdout,
        indent=2,
    )
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
