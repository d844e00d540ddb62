"""``kilotok generate``: stream a continuation and end with the speed receipt."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from kilotok.cli.arguments import add_engine, add_json, add_sampling, open_engine, sampling_params
from kilotok.engine import Engine
from kilotok.errors import InvalidRequestError
from kilotok.receipt import Receipt
from kilotok.sampling import SamplingParams

_DEMO_PROMPT = '''class Queue:
    """A first-in, first-out queue."""

    def __init__(self):
        self._items = []

    def push(self, item):
'''


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "generate",
        help="continue a prompt",
        description="Stream a continuation to stdout and end with the speed receipt on stderr.",
        epilog="example: kilotok generate 'import asyncio' --max-tokens 64",
    )
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("prompt", nargs="?", help="text to continue; - reads it from stdin")
    prompt.add_argument("--file", "-f", type=Path, help="read the prompt from a file")
    prompt.add_argument(
        "--token-ids", metavar="IDS", help="the prompt as comma-separated token ids"
    )
    add_sampling(parser, max_tokens=128)
    add_engine(parser)
    add_json(parser)
    parser.add_argument("--quiet", "-q", action="store_true", help="no prompt echo, no receipt")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    prompt = _prompt(arguments)
    params = sampling_params(arguments)
    with open_engine(arguments) as engine:
        if arguments.json:
            print(json.dumps(engine.generate(prompt, params).to_dict(), ensure_ascii=False))
            return 0
        if isinstance(prompt, str) and not arguments.quiet:
            sys.stdout.write(prompt)
        receipt = _stream(engine, prompt, params)
        if not arguments.quiet:
            print(f"\n{receipt.table()}", file=sys.stderr)
    return 0


def _stream(engine: Engine, prompt: str | list[int], params: SamplingParams) -> Receipt:
    receipt = None
    for piece in engine.stream(prompt, params):
        if piece.text is None:
            sys.stdout.write("".join(f"{token} " for token in piece.token_ids))
        else:
            sys.stdout.write(piece.text)
        sys.stdout.flush()
        receipt = piece.receipt or receipt
    sys.stdout.write("\n")
    sys.stdout.flush()
    assert receipt is not None
    return receipt


def _prompt(arguments: argparse.Namespace) -> str | list[int]:
    if arguments.file is not None:
        try:
            return str(arguments.file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequestError("--file", str(error)) from None
    if arguments.token_ids is not None:
        try:
            return [int(word) for word in arguments.token_ids.split(",")]
        except ValueError as error:
            raise InvalidRequestError("--token-ids", str(error)) from None
    if arguments.prompt == "-":
        return sys.stdin.read()
    if arguments.prompt is not None:
        return str(arguments.prompt)
    if arguments.model is not None:
        raise InvalidRequestError("prompt", "missing; give text, - for stdin, or --file")
    return _DEMO_PROMPT
