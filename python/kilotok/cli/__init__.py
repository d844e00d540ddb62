"""The `kilotok` command.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted; `serve` ends with 2 where it cut
requests off, `verify` with 3 where nothing failed but something could not be compared, and `plan`
with 3 where the model does not fit. Results go to stdout; progress, receipts and errors go to
stderr.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence

from kilotok import __version__
from kilotok.cli import (
    bench,
    chat,
    convert,
    doctor,
    drafter,
    generate,
    inspect,
    plan,
    serve,
    train_drafter,
    verify,
)
from kilotok.errors import Error, InvalidRequestError

__all__ = ["main"]

_COMMANDS = (
    generate,
    chat,
    serve,
    inspect,
    plan,
    doctor,
    verify,
    bench,
    convert,
    drafter,
    train_drafter,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    if serve.is_ours(words):
        return serve.run(words)
    arguments = _parser().parse_args(words)
    # Receipts carry these; a terminal needs no second copy with a source line.
    warnings.simplefilter("ignore", RuntimeWarning)
    try:
        return int(arguments.run(arguments))
    except InvalidRequestError as error:
        return _fail(f"{error}", 2)
    except Error as error:
        return _fail(f"{error}", 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        # The reader of a pipe left; Python would complain again when it flushes at exit.
        sys.stdout = None
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kilotok",
        description="Run MXFP4 mixture-of-experts models with DFlash speculative decoding.",
        epilog="Without a model, every command uses the demo checkpoint that ships with kilotok.",
    )
    parser.add_argument("--version", action="version", version=f"kilotok {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_parser(commands)
    return parser


def _fail(message: str, code: int) -> int:
    print(f"kilotok: {message}", file=sys.stderr)
    return code
