"""Traces of a running engine."""

import os
from pathlib import Path
from types import TracebackType
from typing import Self

from kilotok import _core
from kilotok.errors import EngineDeadError

__all__ = ["Trace"]


class Trace:
    """A trace of an engine, running inside its ``with`` block; made by `Engine.trace`.

    Attributes
    ----------
    path : Path
        Where the timeline is, once the block has ended: Chrome trace events, as JSON.
    summary : str
        A page of text, once the block has ended: how near to the memory's ceiling the ops came and
        what the rest of the time went to. Empty before.
    """

    def __init__(self, core: _core.Engine, path: str | os.PathLike[str], ops: int) -> None:
        self.path = Path(path)
        self.summary = ""
        self._core = core
        self._ops = ops

    def __enter__(self) -> Self:
        # A path that cannot be written to shows before anything is measured.
        is_new = not self.path.exists()
        self.path.open("ab").close()
        try:
            self._core.start_trace(self._ops)
        except BaseException:
            if is_new:
                self.path.unlink(missing_ok=True)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.summary = self._core.end_trace(str(self.path))
        except EngineDeadError:
            # What ended the engine says more than that it has ended.
            if error is None:
                raise
