"""``kilotok plan``: what a model would cost on a GPU, from its configuration alone."""

import argparse
from typing import Any

from kilotok import _core
from kilotok.cli.arguments import add_json
from kilotok.errors import InvalidRequestError
from kilotok.loading import demo_checkpoint

#: Exit code where the model does not fit.
DOES_NOT_FIT = 3


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "plan",
        help="say what a model would cost on a GPU, before it is downloaded",
        description="From config.json alone: does it fit, memory by component, milliseconds per "
        "step and per round with drafts, break-even tau, tokens per second, and the cost of a "
        "token in latency and in throughput mode. Two predictions that are never mixed: the floor "
        "of bytes and hops, and this engine today, from the measured cost of its ops.",
        epilog=f"Exit code: 0 it fits, {DOES_NOT_FIT} it does not fit, 1 a configuration that is "
        "not understood, 2 an argument out of range.",
    )
    parser.add_argument(
        "config",
        nargs="?",
        metavar="CONFIG",
        help="a config.json, a directory with one, or a preset's name such as gpt-oss-20b "
        "(default: the demo)",
    )
    parser.add_argument(
        "--drafter",
        default="auto",
        metavar="DIR|auto|none",
        help="directory of the DFlash drafter (default: dflash/ beside the config.json)",
    )
    parser.add_argument(
        "--experts", metavar="FORMAT", help="as if experts were stored as mxfp4, fp8 or bf16"
    )
    parser.add_argument("--gpu", default="h200", metavar="NAME", help="(default: h200)")
    parser.add_argument(
        "--tp", type=int, default=1, metavar="N", help="GPUs that share the model (default: 1)"
    )
    parser.add_argument(
        "--context",
        type=int,
        metavar="N",
        help="cached positions of each sequence (default: 8192, or what the model takes)",
    )
    parser.add_argument(
        "--block", type=int, metavar="N", help="rows of a drafter block (default: the drafter's)"
    )
    parser.add_argument(
        "--tau", type=float, metavar="X", help="tokens per round, the bonus token included"
    )
    parser.add_argument(
        "--price", type=float, metavar="$", help="per GPU and hour; adds dollars per million tokens"
    )
    parser.add_argument(
        "--allreduce-us",
        type=float,
        metavar="US",
        help="microseconds of one sum over all GPUs (default: they take no time)",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    for name in ("tp", "context", "block"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise InvalidRequestError(name, f"{value} is not at least 1")
    config = demo_checkpoint() if arguments.config is None else arguments.config
    plan = _core.plan(
        str(config),
        drafter=arguments.drafter,
        experts=arguments.experts,
        gpu=arguments.gpu,
        tp=arguments.tp,
        context=arguments.context,
        block=arguments.block,
        tau=arguments.tau,
        price=arguments.price,
        allreduce_us=arguments.allreduce_us,
    )
    print(plan["json"] if arguments.json else plan["text"].rstrip())
    return 0 if plan["fits"] else DOES_NOT_FIT
