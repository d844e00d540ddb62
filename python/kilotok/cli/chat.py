"""``kilotok chat``: a conversation in the terminal."""

import argparse
import sys
from typing import Any

from kilotok.cli.arguments import add_engine, add_sampling, open_engine, sampling_params
from kilotok.engine import Engine
from kilotok.errors import InvalidRequestError
from kilotok.sampling import SamplingParams

_HELP = "/reset forgets the conversation, /exit or Ctrl-D leaves, Ctrl-C stops an answer"


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "chat",
        help="talk to a model",
        description=f"Talk to a model with its own chat template. {_HELP}.",
    )
    parser.add_argument("--system", metavar="TEXT", help="system message")
    parser.add_argument("--quiet", "-q", action="store_true", help="no receipt after an answer")
    add_sampling(parser, max_tokens=512)
    add_engine(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    params = sampling_params(arguments)
    start = [{"role": "system", "content": arguments.system}] if arguments.system else []
    is_terminal = sys.stdin.isatty()
    with open_engine(arguments) as engine:
        if is_terminal:
            print(_HELP, file=sys.stderr)
        messages = list(start)
        while True:
            line = _read("> " if is_terminal else "")
            if line is None or line == "/exit":
                return 0
            if line == "/reset":
                messages = list(start)
            elif line:
                messages.append({"role": "user", "content": line})
                answer = _answer(engine, messages, params, quiet=arguments.quiet)
                messages.append({"role": "assistant", "content": answer})


def _read(prompt: str) -> str | None:
    try:
        return input(prompt).strip()
    except EOFError:
        return None


def _answer(
    engine: Engine, messages: list[dict[str, Any]], params: SamplingParams, *, quiet: bool
) -> str:
    """Stream one answer; what came before Ctrl-C counts as the answer."""
    text = ""
    pieces = engine.stream_chat(messages, params)
    try:
        for piece in pieces:
            if piece.text is None:
                raise InvalidRequestError("model", "has no tokenizer, so it cannot chat")
            text += piece.text
            sys.stdout.write(piece.text)
            sys.stdout.flush()
            if piece.receipt is not None and not quiet:
                warning = f"\n[{piece.receipt.warning}]" if piece.receipt.warning else ""
                print(f"\n[{piece.receipt}]{warning}", file=sys.stderr, end="")
    except KeyboardInterrupt:
        print("\n[stopped]", file=sys.stderr, end="")
    sys.stdout.write("\n")
    sys.stdout.flush()
    return text
