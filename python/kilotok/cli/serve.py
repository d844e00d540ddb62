"""``kilotok serve`` and ``bench-serve``: Rust, with the flags of the program without Python."""

import signal
from collections.abc import Sequence
from typing import Any

from kilotok import _core
from kilotok.errors import ModelFormatError
from kilotok.loading import demo_checkpoint

_HELP = {
    "serve": "serve a model over HTTP, with OpenAI's and Anthropic's APIs",
    "bench-serve": "send load to a running server and report what its clients see",
}


def add_parser(commands: Any) -> None:
    """Register the commands, for the list of `--help`; `run` reads their arguments itself."""
    for name, text in _HELP.items():
        commands.add_parser(name, help=text, add_help=False)


def is_ours(words: Sequence[str]) -> bool:
    """Whether these arguments are for `run`."""
    return bool(words) and words[0] in _HELP


def run(words: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    # Python would only note a signal and act on it after the server has ended by itself.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        demo = str(demo_checkpoint())
    except ModelFormatError:
        # Only a command without a model needs it, and says so.
        demo = None
    return _core.run_program(["kilotok", *words], demo)
