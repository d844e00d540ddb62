"""``kilotok bench``: prefill and decode, speculation off and on side by side."""

import argparse
import json
import statistics
from typing import Any

from kilotok import __version__
from kilotok.cli import bench_preset
from kilotok.cli.arguments import add_engine, add_json, open_engine
from kilotok.cli.doctor import cpu_model
from kilotok.cli.table import table
from kilotok.engine import Engine
from kilotok.errors import InvalidRequestError
from kilotok.options import Speculation
from kilotok.output import Output
from kilotok.sampling import SamplingParams

_PROMPT = '''import heapq


class PriorityQueue:
    """A queue that returns the smallest item first."""

    def __init__(self, items=()):
        self._heap = list(items)
        heapq.heapify(self._heap)

    def push(self, item):
'''


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "bench",
        help="measure prefill and decode",
        description="Measure prefill and greedy decode with speculation off and on, in turn, and "
        "check that both give the same tokens. With --preset, measure a published configuration "
        "with random weights on a GPU instead; --mode then takes several, as graph,persistent.",
    )
    parser.add_argument("--prompt", default=_PROMPT, help="text to continue (default: some code)")
    parser.add_argument(
        "--max-tokens", type=int, default=128, metavar="N", help="decoded per run (default: 128)"
    )
    parser.add_argument(
        "--prefill-tokens", type=int, default=512, metavar="N", help="prompt length (default: 512)"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, metavar="N", help="runs of each, median (default: 3)"
    )
    parser.add_argument(
        "--trace",
        metavar="PATH",
        help="write a timeline for Perfetto and say where the time goes (GPU, persistent mode)",
    )
    bench_preset.add_arguments(parser)
    add_engine(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    if arguments.preset is not None:
        return bench_preset.run(arguments)
    bench_preset.check_absent(arguments)
    if arguments.repeats < 1:
        raise InvalidRequestError("--repeats", f"{arguments.repeats} is not at least 1")
    if arguments.prefill_tokens < 1:
        raise InvalidRequestError("--prefill-tokens", "expected at least 1")
    with open_engine(arguments) as engine:
        result = measure(engine, arguments)
    if arguments.json:
        print(json.dumps(result))
    else:
        print(_render(result))
    return 0 if result["same_tokens"] else 1


def measure(engine: Engine, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the measurements; settings take turns, so that drift meets all of them alike."""
    prompt = engine.encode(arguments.prompt) if engine.has_tokenizer else list(range(1, 33))
    params = SamplingParams(max_tokens=arguments.max_tokens, ignore_eos=True)
    settings: list[Speculation] = ["off"]
    if engine.info()["drafter"] is not None:
        settings.append("auto" if arguments.speculation == "off" else arguments.speculation)
    runs: dict[Speculation, list[Output]] = {setting: [] for setting in settings}
    trace = None
    if arguments.trace is not None:
        engine.generate(prompt, params, speculation=settings[-1])
        with engine.trace(arguments.trace) as trace:
            engine.generate(prompt, params, speculation=settings[-1])
    prefill: list[float] = []
    long = (prompt * (arguments.prefill_tokens // len(prompt) + 1))[: arguments.prefill_tokens]
    for repeat in range(arguments.repeats + 1):
        for setting in settings:
            output = engine.generate(prompt, params, speculation=setting)
            if repeat:
                runs[setting].append(output)
        output = engine.generate(long, SamplingParams(max_tokens=1), speculation="off")
        if repeat:
            prefill.append(output.receipt.prefill_ms)
    prefill_ms = statistics.median(prefill)
    tokens = [output.token_ids for outputs in runs.values() for output in outputs]
    decode = [_summary(setting, outputs) for setting, outputs in runs.items()]
    return {
        "kilotok": __version__,
        "cpu": cpu_model(),
        "model": engine.info(),
        "repeats": arguments.repeats,
        "prefill": {
            "tokens": len(long),
            "ms": prefill_ms,
            "tokens_per_s": 1000 * len(long) / prefill_ms,
        },
        "decode": decode,
        "speedup": decode[-1]["tokens_per_s"] / decode[0]["tokens_per_s"],
        "same_tokens": all(ids == tokens[0] for ids in tokens),
        **({} if trace is None else {"trace": trace.summary}),
    }


def _summary(setting: Speculation, outputs: list[Output]) -> dict[str, Any]:
    receipts = [output.receipt for output in outputs]
    return {
        "speculation": setting,
        "tokens": receipts[0].tokens,
        "tokens_per_s": statistics.median(r.tokens_per_s or 0.0 for r in receipts),
        "tau": statistics.median(r.tau for r in receipts),
        "ttft_ms": statistics.median(r.ttft_ms for r in receipts),
    }


def _render(result: dict[str, Any]) -> str:
    prefill = result["prefill"]
    header = ["", "tokens", "tokens/s", "tau", "first token ms"]
    rows: list[list[object]] = [
        ["prefill", prefill["tokens"], f"{prefill['tokens_per_s']:.1f}", "", f"{prefill['ms']:.1f}"]
    ]
    rows += [
        [
            f"decode, speculation {entry['speculation']}",
            entry["tokens"],
            f"{entry['tokens_per_s']:.1f}",
            f"{entry['tau']:.2f}",
            f"{entry['ttft_ms']:.1f}",
        ]
        for entry in result["decode"]
    ]
    same = "the same tokens" if result["same_tokens"] else "DIFFERENT TOKENS (a bug)"
    text = (
        f"{table(header, rows)}\n"
        f"speculation on over off: {result['speedup']:.2f}x, {same}; median of {result['repeats']}"
    )
    return f"{text}\n\n{result['trace']}" if "trace" in result else text
