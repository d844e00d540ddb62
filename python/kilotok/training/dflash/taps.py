"""Taps of training texts: computed once where they fit, else again for every step."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kilotok.training.dflash.answers import Answers
from kilotok.training.dflash.teacher import PaddedTeacher, Teacher

__all__ = ["Taps", "build_resident", "build_store", "fits_beside_training"]

_BATCH = 64


class Taps:
    """Gives the taps of texts by number.

    Parameters
    ----------
    store : BF16 [tokens, K * hidden], as a file from `build_store` or on a device from
        `build_resident`; without one the teacher computes.
    """

    def __init__(
        self, answers: Answers, teacher: Teacher, store: Path | Tensor | None, width: int
    ) -> None:
        self._answers, self._teacher, self._rows = answers, teacher, None
        self._resident = store if isinstance(store, Tensor) else None
        if isinstance(store, Path):
            self._rows = np.memmap(store, np.int16, "r", shape=(len(answers.tokens), width))

    def padded(self, indices: Sequence[int], tokens: Tensor, rows: Tensor) -> Tensor:
        """Taps of padded texts, [B, S, K * hidden], on the device of `tokens`.

        tokens int64 [B, S]; rows int64 [B, S]: where each token stands among all texts' tokens,
        and anything within them for padding, whose taps are of no consequence.
        """
        if self._resident is not None:
            return self._resident[rows]
        if self._rows is None and isinstance(self._teacher, PaddedTeacher):
            return self._teacher.padded_taps(tokens)
        taps = pad_sequence([t.to(tokens.device) for t in self.get(indices)], batch_first=True)
        return F.pad(taps, (0, 0, 0, tokens.shape[1] - taps.shape[1]))

    def get(self, indices: Sequence[int]) -> list[Tensor]:
        """Per text BF16 [n, K * hidden]."""
        if self._rows is None:
            return self._teacher.taps([self._answers.text(i).tolist() for i in indices])
        offsets = self._answers.offsets
        return [
            torch.from_numpy(np.array(self._rows[offsets[i] : offsets[i + 1]])).view(torch.bfloat16)
            for i in indices
        ]


def fits_beside_training(size: int, device: torch.device) -> bool:
    """Whether `size` bytes of taps take at most half of what is free on a CUDA device."""
    if device.type != "cuda":
        return False
    torch.cuda.empty_cache()
    return size <= torch.cuda.mem_get_info(device)[0] // 2


def build_resident(answers: Answers, teacher: Teacher, width: int, device: torch.device) -> Tensor:
    """Compute the taps of all texts into device memory: BF16 [tokens, width]."""
    rows = torch.empty(len(answers.tokens), width, dtype=torch.bfloat16, device=device)
    _fill(answers, teacher, rows.__setitem__)
    return rows


def build_store(answers: Answers, teacher: Teacher, path: Path, width: int) -> Path:
    """Compute the taps of all texts into `path`; kept if it is there already, whole.

    width : columns, K * hidden. Returns `path`.
    """
    if path.exists():
        return path
    temporary = path.with_suffix(".partial")
    rows = np.memmap(temporary, np.int16, "w+", shape=(len(answers.tokens), width))

    def put(where: slice, taps: Tensor) -> None:
        rows[where] = taps.view(torch.int16).cpu().numpy()

    _fill(answers, teacher, put)
    rows.flush()
    temporary.rename(path)
    return path


def _fill(answers: Answers, teacher: Teacher, put: Callable[[slice, Tensor], None]) -> None:
    began = time.monotonic()
    for first in range(0, len(answers), _BATCH):
        some = range(first, min(first + _BATCH, len(answers)))
        taps = teacher.taps([answers.text(i).tolist() for i in some])
        start, end = answers.offsets[some.start], answers.offsets[some.stop]
        put(slice(int(start), int(end)), torch.cat(taps).bfloat16())
        if some.stop == len(answers) or (first // _BATCH) % 8 == 0:
            rate = end / (time.monotonic() - began)
            print(
                f"taps: {some.stop} of {len(answers)} texts, {rate:.0f} tokens/s",
                file=sys.stderr,
                flush=True,
            )
