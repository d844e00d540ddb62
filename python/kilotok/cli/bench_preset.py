"""``kilotok bench --preset``: a published model's speed on this GPU, without its weights."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from kilotok import __version__, _core
from kilotok.cli.table import table
from kilotok.errors import InvalidRequestError

__all__ = ["add_arguments", "measure", "render", "run"]

_MODES = ("graph", "persistent")
_ACCEPT = (6.3, 5.6, 4.3)
#: Cards that the planner knows and the engine has kernels for; a longer name before its beginning.
_CARDS = ("gh200", "h200", "h100-nvl", "h100", "h20")

#: What the numbers are, for whoever finds them without the command.
NOTES = {
    "ms": "median, from the host's command to the device's answer",
    "weights": "random; experts in MXFP4, the rest as the published MXFP4 checkpoints have it",
    "rank": "one rank's share of heads, inner widths and vocabulary; all-reduces excluded",
    "bytes": "dense matrices, experts that the rows were routed to (read back), keys and values",
    "ceiling": "device-to-device copy of 1 GiB in the same run, bytes read and written; "
    "a kernel that only reads can be faster",
    "forced": "draft, verify and commit of ceil(accept) rows, timed one by one and added up; "
    "choosing and accepting are in device_ms only",
    "device_ms": "whole rounds made by the device, with whatever it accepts of random drafts",
    "predicted": "by the constants of `kilotok plan`, for the experts that were touched; floor: "
    "bytes over the read rate, and hops",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `run` reads beside ``--mode`` and ``--json``."""
    group = parser.add_argument_group("a preset with random weights, on a GPU")
    group.add_argument("--preset", metavar="NAME", help="measure this published configuration")
    group.add_argument(
        "--synthetic", action="store_true", help="with random weights, the only way for a preset"
    )
    group.add_argument(
        "--rank-of", type=int, default=1, metavar="N", help="one GPU's share of N (default: 1)"
    )
    group.add_argument(
        "--rows",
        type=_list_of(int),
        default=[1, 2, 4, 8],
        metavar="N,...",
        help="(default: 1,2,4,8)",
    )
    group.add_argument(
        "--context", type=int, default=1024, metavar="N", help="cached positions (default: 1024)"
    )
    group.add_argument(
        "--block", type=int, default=8, metavar="N", help="rows of a drafter block (default: 8)"
    )
    group.add_argument(
        "--accept",
        type=_list_of(float),
        metavar="X,...",
        help="tokens per round, at most --block (default: those of 6.3,5.6,4.3)",
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="only print the memory needed and the times predicted for an H200; needs no GPU",
    )


def check_absent(arguments: argparse.Namespace) -> None:
    """Refuse what only a preset can be measured with.

    Raises
    ------
    InvalidRequestError
        There is no preset, and something asks for one.
    """
    for name in ("synthetic", "dry_run"):
        if getattr(arguments, name):
            raise InvalidRequestError(f"--{name.replace('_', '-')}", "needs --preset")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    if arguments.model is not None:
        raise InvalidRequestError("--model", "a preset has weights of its own: drop --model")
    modes = _MODES if arguments.mode == "auto" else tuple(arguments.mode.split(","))
    if not arguments.synthetic:
        raise InvalidRequestError("--preset", "has no weights; say --synthetic for random ones")
    if arguments.device not in ("auto", "cuda"):
        raise InvalidRequestError("--device", f"{arguments.device!r}; presets are timed on a GPU")
    if arguments.rank_of < 1:
        raise InvalidRequestError("--rank-of", f"{arguments.rank_of} is not at least 1")
    for name in ("context", "block"):
        if getattr(arguments, name) < 1:
            raise InvalidRequestError(f"--{name}", f"{getattr(arguments, name)} is not at least 1")
    if any(rows < 1 for rows in arguments.rows):
        raise InvalidRequestError("--rows", f"{arguments.rows} are not at least 1")
    result = measure(
        arguments.preset,
        modes,
        rank_of=arguments.rank_of,
        rows=arguments.rows,
        context=arguments.context,
        block=arguments.block,
        accept=arguments.accept,
        dry_run=arguments.dry_run,
        trace=arguments.trace,
    )
    print(json.dumps(result) if arguments.json else render(result))
    return 0


def measure(
    preset: str,
    modes: Sequence[str] = _MODES,
    *,
    rank_of: int = 1,
    rows: Sequence[int] = (1, 2, 4, 8),
    context: int = 1024,
    block: int = 8,
    accept: Sequence[float] | None = None,
    dry_run: bool = False,
    trace: str | None = None,
) -> dict[str, Any]:
    """Measure one preset in some modes; the card is filled anew for each.

    ``accept``: tokens per round to give times for, at most ``block``; usual ones where it is None.
    ``trace``: where to write a timeline of passes in persistent mode, of the last of ``rows``.

    Raises
    ------
    InvalidRequestError
        An argument out of range, an unknown preset or mode, or one that ranks cannot share.
    NoGpuError, OutOfMemoryError, EngineDeadError
        As the engine raises them.
    """
    for mode in modes:
        if mode not in _MODES:
            raise InvalidRequestError("--mode", f"{mode!r} is not one of {', '.join(_MODES)}")
    if trace is not None and "persistent" not in modes:
        raise InvalidRequestError("--trace", "graph mode has none; say --mode persistent")
    if accept is None:
        accept = [mean for mean in _ACCEPT if mean <= block]
    results = {}
    for mode in modes:
        if not dry_run:
            print(f"{preset} rank of {rank_of}: {mode} ...", file=sys.stderr, flush=True)
        timeline = trace if mode == "persistent" else None
        shape = (preset, rank_of, mode, list(rows), context, block, list(accept))
        measured = _core.bench_synthetic(*shape, trace=timeline, dry_run=dry_run)
        card = "h200" if dry_run else _card(measured["device"])
        if card is not None:
            planned = (preset, rank_of, list(rows), context, block, list(accept))
            measured["predicted"] = _predicted(planned, mode, measured, card)
        results[mode] = measured if dry_run else _with_rates(measured)
    return {
        "kilotok": __version__,
        "preset": preset,
        "rank_of": rank_of,
        "context": context,
        "modes": results,
        "notes": NOTES,
    }


def _card(device: str) -> str | None:
    """Which of the planner's cards the driver's name means, if any."""
    name = device.lower().replace(" ", "-")
    return next((card for card in _CARDS if card in name), None)


def _predicted(
    shape: tuple[str, int, list[int], int, int, list[float]],
    mode: str,
    measured: dict[str, Any],
    card: str,
) -> dict[str, Any]:
    """What the planner expects, with the experts that were touched where they are known."""
    *_, rows, _, _, accept = shape
    experts = [entry["experts_per_layer"] for entry in measured.get("passes", [])]
    times = _core.plan_bench(*shape, experts=experts or None, gpu=card)
    return {
        "gpu": card,
        "passes": [
            {"rows": count, "floor_ms": one["floor"], "ms": one[mode]}
            for count, one in zip(rows, times["passes"], strict=True)
        ],
        "rounds": [
            {"accept": mean, "floor_ms": one["floor"], "ms": one[mode]}
            for mean, one in zip(accept, times["rounds"], strict=False)
        ],
    }


def _with_rates(measured: dict[str, Any]) -> dict[str, Any]:
    """Add tokens per second, and the share of the ceiling, to what was measured."""
    ceiling = measured["copy_bytes_per_s"]
    for entry in measured["passes"]:
        entry["tokens_per_s"] = 1000 * entry["rows"] / entry["ms"]
        entry["bytes_per_s"] = 1000 * entry["bytes"] / entry["ms"]
        entry["of_copy_rate"] = entry["bytes_per_s"] / ceiling
    for entry in (measured["rounds"] or {}).get("forced", []):
        entry["tokens_per_s"] = 1000 * entry["accept"] / entry["ms"]
    return measured


def render(result: dict[str, Any]) -> str:
    """Tables for a terminal."""
    lines = [f"{result['preset']}, rank of {result['rank_of']}, context {result['context']}"]
    if result["rank_of"] > 1:
        lines.append("all-reduces between ranks are excluded")
    memory = next(iter(result["modes"].values()))["memory"]
    lines.append(
        "memory: " + ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in memory.items())
    )
    measured = {mode: entry for mode, entry in result["modes"].items() if "passes" in entry}
    if not measured:
        return "\n".join([*lines, *_render_predicted(result)])
    rows: list[list[object]] = []
    rounds: list[list[object]] = []
    for mode, entry in measured.items():
        lines.append(
            f"{mode}: {entry['device']}, copies at {entry['copy_bytes_per_s'] / 1e12:.2f} TB/s"
        )
        rows += [
            [
                mode,
                one["rows"],
                f"{one['ms']:.3f}",
                f"{one['tokens_per_s']:.0f}",
                f"{one['bytes'] / 1e9:.2f}",
                f"{one['bytes_per_s'] / 1e12:.2f}",
                f"{100 * one['of_copy_rate']:.0f} %",
                f"{one['experts_per_layer']:.1f}",
            ]
            for one in entry["passes"]
        ]
        drafted = entry["rounds"]
        if drafted is None:
            continue
        rounds += [
            [
                mode,
                drafted["block"],
                f"{drafted['draft_ms']:.3f}",
                f"{drafted['verify_ms']:.3f}",
                f"{one['accept']:.1f}",
                f"{one['ms']:.3f}",
                f"{one['tokens_per_s']:.0f}",
                f"{drafted['device_ms']:.3f}",
            ]
            for one in drafted["forced"]
        ]
    header = ["mode", "rows", "ms", "tokens/s", "GB", "TB/s", "of copies", "experts/layer"]
    lines += ["", table(header, rows)]
    if rounds:
        header = ["mode", "block", "draft ms", "verify ms", "accept", "round ms", "tokens/s"]
        lines += ["", table([*header, "device round ms"], rounds)]
    lines += _render_predicted(result)
    for entry in measured.values():
        if "trace" in entry:
            lines += ["", f"trace of passes of {entry['passes'][-1]['rows']} rows", entry["trace"]]
    lines += ["", *(f"{name}: {note}" for name, note in result["notes"].items())]
    return "\n".join(lines)


def _render_predicted(result: dict[str, Any]) -> list[str]:
    """Predicted beside measured, for passes and rounds."""
    rows: list[list[object]] = []
    for mode, entry in result["modes"].items():
        if "predicted" not in entry:
            continue
        predicted = entry["predicted"]
        passes = entry.get("passes", [])
        rounds = (entry.get("rounds") or {}).get("forced", [])
        for what, expected, found in (
            ("rows", predicted["passes"], passes),
            ("accept", predicted["rounds"], rounds),
        ):
            for i, one in enumerate(expected):
                ms = found[i]["ms"] if i < len(found) else None
                rows.append(
                    [
                        mode,
                        f"{one[what]} rows" if what == "rows" else f"round, accept {one[what]}",
                        f"{one['floor_ms']:.3f}",
                        f"{one['ms']:.3f}",
                        "-" if ms is None else f"{ms:.3f}",
                        "-" if ms is None else f"{100 * (one['ms'] / ms - 1):+.1f} %",
                    ]
                )
    header = ["mode", "", "floor ms", "predicted ms", "measured ms", "predicted off by"]
    return ["", table(header, rows, numbers_from=2)] if rows else []


def _list_of(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    def parse(text: str) -> list[Any]:
        try:
            return [kind(part) for part in text.split(",")]
        except ValueError:
            message = f"{text!r} is not a list of numbers with commas in between"
            raise argparse.ArgumentTypeError(message) from None

    return parse
