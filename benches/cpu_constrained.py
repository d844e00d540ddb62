"""Constrained decoding of the demo checkpoint: speculation off beside on, several schemas.

Greedy and at temperature 1. All settings run every case in turn, so that a slow moment of the
machine hits them alike, and must agree about the tokens. Prints JSON: tokens per second of each,
the ratio, what masks cost beside the same text without a rule, and the cases in which automatic
speculation is slower than none by more than 5 %.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys

from kilotok import Engine, SamplingParams

PROMPT = "import json\n\n# A few entries of the table, as JSON.\nentries = "

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "email": {"type": "string", "pattern": "^[a-z]{3,12}@[a-z]{3,10}\\.org$"},
        "active": {"type": "boolean"},
    },
    "required": ["name", "age", "email", "active"],
    "additionalProperties": False,
}

CASES = {
    "person": {"json_schema": PERSON},
    "people": {"json_schema": {"type": "array", "items": PERSON, "minItems": 3, "maxItems": 4}},
    "tree": {
        "json_schema": {
            "$ref": "#/$defs/node",
            "$defs": {
                "node": {
                    "type": "object",
                    "properties": {
                        "key": {"enum": ["left", "right", "root"]},
                        "weight": {"type": "number", "minimum": 0, "maximum": 1},
                        "children": {
                            "type": "array",
                            "items": {"$ref": "#/$defs/leaf"},
                            "minItems": 2,
                            "maxItems": 4,
                        },
                    },
                    "required": ["key", "weight", "children"],
                    "additionalProperties": False,
                },
                "leaf": {
                    "type": "object",
                    "properties": {"id": {"type": "integer", "minimum": 1, "maximum": 999}},
                    "required": ["id"],
                    "additionalProperties": False,
                },
            },
        }
    },
    "strings": {
        "json_schema": {
            "type": "array",
            "items": {"type": "string", "minLength": 20, "maxLength": 60},
            "minItems": 4,
            "maxItems": 5,
        }
    },
    "regex": {"regex": "([a-z]{2,8} = [0-9]{1,4};\n){12}"},
}
SETTINGS = ["off", "auto", 8]


def measure(engine: Engine, rule: dict, temperature: float, repeats: int) -> dict:
    """Tokens per second of each setting, from its fastest run, and of the same without a rule."""
    params = SamplingParams(max_tokens=1500, temperature=temperature, seed=1, **rule)
    best = dict.fromkeys([*SETTINGS, "free"], 0.0)
    texts = set()
    for _ in range(repeats):
        for setting in SETTINGS:
            out = engine.generate(PROMPT, params, speculation=setting)
            texts.add(tuple(out.token_ids))
            best[setting] = max(best[setting], out.receipt.tokens_per_s or 0.0)
        free = SamplingParams(
            max_tokens=len(out.token_ids), temperature=temperature, seed=1, ignore_eos=True
        )
        plain = engine.generate(PROMPT, free, speculation="off").receipt.tokens_per_s
        best["free"] = max(best["free"], plain or 0.0)
    if len(texts) != 1:
        raise SystemExit("cpu_constrained: the settings disagree about the tokens")
    return {
        "tokens": len(out.token_ids),
        "tokens_per_s": {str(setting): round(best[setting], 1) for setting in SETTINGS},
        "without_a_rule_off": round(best["free"], 1),
        "auto_over_off": round(best["auto"] / best["off"], 3),
        "block_8_over_off": round(best[8] / best["off"], 3),
        "off_over_without_a_rule": round(best["off"] / best["free"], 3),
        "tau_block_8": round(out.receipt.tau, 2),
    }


def main() -> None:
    """Measure every case and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    cases = {}
    with Engine(progress=False, threads=arguments.threads) as engine:
        engine.generate(PROMPT, SamplingParams(max_tokens=200, ignore_eos=True))
        for name, rule in CASES.items():
            for temperature in (0.0, 1.0):
                label = f"{name}, T = {temperature:g}"
                cases[label] = measure(engine, rule, temperature, arguments.repeats)
    ratios = [case["auto_over_off"] for case in cases.values()]
    slow = [label for label, case in cases.items() if case["auto_over_off"] < 0.95]
    report = {
        "model": "demo",
        "threads": arguments.threads,
        "repeats": arguments.repeats,
        "cases": cases,
        "auto_over_off": {
            "min": min(ratios),
            "geometric_mean": round(statistics.geometric_mean(ratios), 3),
        },
        "slower_by_more_than_5_percent": slow,
    }
    json.dump(report, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
