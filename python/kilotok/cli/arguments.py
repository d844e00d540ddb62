"""Arguments that several commands share."""

import argparse
from typing import Any

from kilotok.engine import Engine
from kilotok.options import Speculation
from kilotok.sampling import SamplingParams

__all__ = ["add_engine", "add_json", "add_sampling", "open_engine", "sampling_params"]


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add what `open_engine` reads."""
    group = parser.add_argument_group("model and engine")
    group.add_argument(
        "--model", "-m", metavar="DIR|ID", help="checkpoint directory or hub id (default: the demo)"
    )
    group.add_argument(
        "--drafter", default="auto", metavar="DIR|auto|none", help="DFlash drafter (default: auto)"
    )
    group.add_argument(
        "--speculation",
        "-s",
        type=_speculation,
        default="auto",
        metavar="off|auto|N",
        help="rows of a block, N >= 2, or let the engine choose (default: auto)",
    )
    group.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    group.add_argument(
        "--mode", default="auto", help="on a GPU: auto, graph or persistent (default: auto)"
    )
    group.add_argument("--threads", type=int, metavar="N", help="threads (default: all cores)")
    group.add_argument("--simd", help="instruction set of the CPU backend (default: the best)")
    group.add_argument("--no-progress", action="store_true", help="no progress bar while loading")


def open_engine(arguments: argparse.Namespace, **options: Any) -> Engine:
    """Load the model that the arguments name."""
    return Engine(
        arguments.model,
        drafter=None if arguments.drafter == "none" else arguments.drafter,
        speculation=arguments.speculation,
        device=arguments.device,
        mode=arguments.mode,
        threads=arguments.threads,
        simd=arguments.simd,
        progress=not arguments.no_progress,
        **options,
    )


def add_sampling(parser: argparse.ArgumentParser, *, max_tokens: int) -> None:
    """Add what `sampling_params` reads."""
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--max-tokens", type=int, default=max_tokens, metavar="N", help=f"(default: {max_tokens})"
    )
    group.add_argument(
        "--temperature", "-t", type=float, default=0.0, metavar="T", help="0 is greedy (default)"
    )
    group.add_argument("--top-k", type=int, default=0, metavar="K", help="0 keeps all (default)")
    group.add_argument("--top-p", type=float, default=1.0, metavar="P", help="(default: 1)")
    group.add_argument("--min-p", type=float, default=0.0, metavar="P", help="(default: 0)")
    group.add_argument(
        "--repetition-penalty", type=float, default=1.0, metavar="R", help="1 is off (default)"
    )
    group.add_argument("--seed", type=int, metavar="N", help="key of the noise (default: random)")
    group.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="stop string; may be repeated"
    )
    group.add_argument("--ignore-eos", action="store_true", help="go on after the end token")


def sampling_params(arguments: argparse.Namespace, **fields: Any) -> SamplingParams:
    """Sampling parameters from the arguments; raises `InvalidRequestError`."""
    return SamplingParams(
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        repetition_penalty=arguments.repetition_penalty,
        seed=arguments.seed,
        stop=arguments.stop,
        ignore_eos=arguments.ignore_eos,
        **fields,
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON document to stdout")


def _speculation(text: str) -> Speculation:
    if text in ("off", "auto"):
        return text  # type: ignore[return-value]
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not off, auto or a number") from None
