"""`torch.compile` that costs speed, not the run, where it fails."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["compiled"]


def compiled(function: Callable[..., Any], what: str) -> Callable[..., Any]:
    """Compile for fixed shapes; go on eagerly, with a message, if the first call fails."""
    fast: Callable[..., Any] = torch.compile(function, dynamic=False)
    state = {"eager": False}

    def call(*arguments: Any, **keywords: Any) -> Any:
        if state["eager"]:
            return function(*arguments, **keywords)
        try:
            return fast(*arguments, **keywords)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:
            # The compiler raises whatever its own code and the C compiler raise.
            print(f"compile: {what} stays eager: {error!r:.500}", file=sys.stderr, flush=True)
            state["eager"] = True
            return function(*arguments, **keywords)

    return call
