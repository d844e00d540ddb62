"""``kilotok inspect``: what a checkpoint is, from its headers alone."""

import argparse
from typing import Any

from kilotok import _core
from kilotok.cli.arguments import add_json
from kilotok.loading import resolve


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "inspect",
        help="describe a checkpoint",
        description="Describe a checkpoint from its headers alone: shapes, census of tensors, "
        "bytes read per token, KV bytes per token, memory per tensor-parallel rank.",
    )
    parser.add_argument("model", nargs="?", metavar="DIR", help="directory (default: the demo)")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    report = _core.inspect(str(resolve(arguments.model)))
    if arguments.json:
        print(report["json"])
    else:
        print(report["text"])
    return 0
