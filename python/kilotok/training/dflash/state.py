"""`state.pt`: everything a run needs to go on as if it had not stopped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from kilotok.errors import InvalidRequestError, ModelFormatError

__all__ = ["load_state", "save_state"]

_FILE = "state.pt"


def save_state(folder: Path, identity: dict[str, Any], state: dict[str, Any]) -> None:
    """Write atomically: a run that is killed leaves the last whole state.

    identity : what must be equal to go on; compared by `load_state`.
    """
    temporary = folder / f".{_FILE}.{os.getpid()}"
    torch.save({"identity": identity, **state}, temporary)
    temporary.rename(folder / _FILE)


def load_state(
    folder: Path, identity: dict[str, Any], device: torch.device
) -> dict[str, Any] | None:
    """The state of this very run, or None where there is none.

    Raises
    ------
    InvalidRequestError
        The state is of another run; names what differs.
    ModelFormatError
        The file is damaged.
    """
    path = folder / _FILE
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        # torch raises many unrelated classes for a damaged archive.
        raise ModelFormatError(f"{path}: cannot be read: {error}") from error
    found = state.pop("identity", {})
    different = [key for key in identity if found.get(key) != identity[key]]
    if different:
        raise InvalidRequestError(
            "--resume", f"{path} is of a run with other {', '.join(different)}"
        )
    return state
