"""Rounds of the resident kernel under random delays of blocks and warps; JSON on stdout.

Everything is generated once as usual. Then the same again and again, with delays of up to 5 us per
block and op (and, for every other seed, one more barrier after every op), until so many rounds have
been made: tokens and log-probabilities have to be equal bit for bit. Exit code 1 if they are not.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable

from kilotok import Engine, SamplingParams
from kilotok.output import Output

PROMPTS = [
    "import argparse\n",
    "class Stack:\n    def __init__(self):\n",
    "def main():\n    parser = argparse.ArgumentParser()\n",
    "for i in range(10):\n",
    "The function returns ",
    "12 + 30 = 42\n7 * 8 = ",
    '{"name": "get_weather", "arguments": {"city": "',
    "try:\n    import numpy as np\nexcept ",
]
TOKENS = 256

#: Bits of an answer.
Answer = list[tuple[list[int], object]]


def params(**options: object) -> SamplingParams:
    """Make parameters of answers of one length."""
    return SamplingParams(max_tokens=TOKENS, ignore_eos=True, **options)


def bits(outputs: list[Output]) -> Answer:
    """Take what has to be equal."""
    return [(output.token_ids, output.logprobs) for output in outputs]


def jobs() -> dict[str, Callable[[Engine], list[Output]]]:
    """Every way through the kernel: whole rounds with and without drafts, batches, host passes."""
    sampled = params(temperature=1.0, seed=7)
    filtered = params(temperature=0.9, seed=5, top_k=20, top_p=0.9, frequency_penalty=0.3)
    scored = params(temperature=0.8, seed=11, logprobs=5)
    return {
        "greedy, drafts": lambda engine: [
            engine.generate(prompt, params(), speculation=8) for prompt in PROMPTS[:2]
        ],
        "sampled, drafts": lambda engine: [
            engine.generate(prompt, sampled, speculation=8) for prompt in PROMPTS[2:4]
        ],
        "filtered, drafts": lambda engine: [engine.generate(PROMPTS[5], filtered, speculation=8)],
        "batch": lambda engine: engine.generate(PROMPTS, sampled, speculation="off"),
        "scored, drafts": lambda engine: [engine.generate(PROMPTS[4], scored, speculation=8)],
    }


def answers(engine: Engine) -> dict[str, Answer]:
    """Run every job once."""
    return {name: bits(job(engine)) for name, job in jobs().items()}


def stress(expected: dict[str, Answer], debug: str, rounds: int) -> tuple[int, list[str]]:
    """Make ``rounds`` rounds under ``debug``; how many there were, and which jobs differed."""
    os.environ["KILOTOK_GPU_DEBUG"] = debug
    try:
        engine = Engine(device="cuda", mode="persistent", max_batch=8, progress=False)
    finally:
        del os.environ["KILOTOK_GPU_DEBUG"]
    different: list[str] = []
    with engine:
        while engine.stats()["rounds"] < rounds and not different:
            for name, job in jobs().items():
                if bits(job(engine)) != expected[name]:
                    different.append(f"{name}, {debug}")
        return engine.stats()["rounds"], different


def main() -> int:
    """Run all seeds; a line each on stderr, JSON on stdout."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100_000, help="in all (default: 100000)")
    parser.add_argument("--seeds", type=int, default=4, help="engines (default: 4)")
    parser.add_argument("--first-seed", type=int, default=1)
    arguments = parser.parse_args()
    options = {"device": "cuda", "mode": "persistent", "max_batch": 8, "progress": False}
    with Engine(**options) as engine:
        answers(engine)
        start = time.perf_counter()
        expected = answers(engine)
        undelayed = time.perf_counter() - start
        repeated = answers(engine) == expected
    runs, different = [], [] if repeated else ["without delays"]
    for i in range(arguments.seeds):
        barriers = "barriers," if i % 2 else ""
        debug = f"{barriers}delays={arguments.first_seed + i}"
        start = time.perf_counter()
        made, wrong = stress(expected, debug, -(-arguments.rounds // arguments.seeds))
        seconds = time.perf_counter() - start
        runs.append({"debug": debug, "rounds": made, "seconds": seconds})
        different += wrong
        said = ", ".join(wrong) or "the same bits"
        print(f"{debug:22} {made:7d} rounds {seconds:7.1f} s: {said}", file=sys.stderr)
    result = {
        "rounds": sum(run["rounds"] for run in runs),
        "different": different,
        "undelayed_seconds_of_all_jobs": undelayed,
        "runs": runs,
    }
    print(json.dumps(result))
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
