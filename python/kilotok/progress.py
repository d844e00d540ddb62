"""A progress bar for loading weights: bytes, rate and time left."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

__all__ = ["ProgressBar", "ProgressCallback", "callback_for"]

#: Called with (bytes done, bytes in all), from the thread that loads.
ProgressCallback = Callable[[int, int], object]

_WIDTH = 28
_INTERVAL_S = 0.1


class ProgressBar:
    """Draws one line on a terminal and removes it at the end.

    Parameters
    ----------
    label : str
        What is being loaded.
    stream : text file
        Where to draw.
    """

    def __init__(self, label: str, stream: TextIO) -> None:
        self._label = label
        self._stream = stream
        self._start = time.monotonic()
        self._drawn = 0.0

    def __call__(self, done: int, total: int) -> None:
        """Redraw, at most ten times a second."""
        now = time.monotonic()
        if done >= total:
            if self._drawn:
                self._stream.write("\r\x1b[K")
                self._stream.flush()
            return
        if now - self._drawn < _INTERVAL_S:
            return
        self._drawn = now
        self._stream.write("\r\x1b[K" + self.line(done, total, now - self._start))
        self._stream.flush()

    def line(self, done: int, total: int, elapsed_s: float) -> str:
        """The text of the bar, without control characters."""
        filled = _WIDTH * done // max(total, 1)
        rate = done / elapsed_s if elapsed_s > 0 else 0.0
        eta = f"{(total - done) / rate:.0f} s left" if rate > 0 else "starting"
        bar = "#" * filled + "." * (_WIDTH - filled)
        return f"{self._label} [{bar}] {_size(done)} of {_size(total)}, {_size(rate)}/s, {eta}"


def callback_for(progress: bool | ProgressCallback, label: str) -> ProgressCallback | None:
    """What to call while loading: the given callable, a bar if stderr is a terminal, or nothing."""
    if callable(progress):
        return progress
    if progress and sys.stderr.isatty():
        return ProgressBar(label, sys.stderr)
    return None


def _size(num_bytes: float) -> str:
    for unit in ("B", "KB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.2f} GB"
