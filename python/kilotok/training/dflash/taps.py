"""Taps of training texts: computed once to a file where that fits, else again for every step."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kilotok.training.dflash.answers import Answers
from kilotok.training.dflash.teacher import PaddedTeacher, Teacher

__all__ = ["Taps", "build_store"]

_BATCH = 64


class Taps:
    """Gives the taps of texts by number.

    Parameters
    ----------
    store : file of BF16 [tokens, K * hidden] from `build_store`; without one the teacher computes.
    """

    def __init__(self, answers: Answers, teacher: Teacher, store: Path | None, width: int) -> None:
        self._answers, self._teacher, self._rows = answers, teacher, None
        if store is not None:
            self._rows = np.memmap(store, np.int16, "r", shape=(len(answers.tokens), width))

    def padded(self, indices: Sequence[int], tokens: Tensor) -> Tensor:
        """Taps of padded rows of texts: tokens int64 [B, S] -> [B, S, K * hidden] on its device."""
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


def build_store(answers: Answers, teacher: Teacher, path: Path, width: int) -> Path:
    """Compute the taps of all texts into `path`; kept if it is there already, whole.

    width : columns, K * hidden. Returns `path`.
    """
    if path.exists():
        return path
    temporary = path.with_suffix(".partial")
    rows = np.memmap(temporary, np.int16, "w+", shape=(len(answers.tokens), width))
    began = time.monotonic()
    for first in range(0, len(answers), _BATCH):
        some = range(first, min(first + _BATCH, len(answers)))
        taps = teacher.taps([answers.text(i).tolist() for i in some])
        start, end = answers.offsets[some.start], answers.offsets[some.stop]
        rows[start:end] = torch.cat(taps).view(torch.int16).cpu().numpy()
        if some.stop == len(answers) or (first // _BATCH) % 8 == 0:
            rate = end / (time.monotonic() - began)
            print(
                f"taps: {some.stop} of {len(answers)} texts, {rate:.0f} tokens/s",
                file=sys.stderr,
                flush=True,
            )
    rows.flush()
    temporary.rename(path)
    return path
