"""What ops work on: memory, the command, and matrices that were unpacked before."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from kilotok.reference.vm import steps
from kilotok.reference.vm.memory import Memory
from kilotok.reference.vm.records import STRUCTS, Record, zeros


@dataclass(frozen=True)
class Round:
    """What one run did in one round; ``ended``: 0, 1 by a stop token, 2 by its length."""

    run: int
    drafted: int
    tokens: list[int]
    ended: int


@dataclass
class Machine:
    """Memory and the command that runs on it.

    Attributes
    ----------
    blocks : blocks of the grid; a choice is made among each block's share of the vocabulary.
    command : KilotokCommand, changed by ops that lay out rows and advance runs.
    told : what the runs of the newest command did.
    """

    memory: Memory
    blocks: int
    command: Record = field(default_factory=lambda: zeros("Command"))
    told: list[Round] = field(default_factory=list)
    _matrices: dict[tuple[int, ...], np.ndarray] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows of the pass."""
        return int(self.command["pass"]["rows"])

    @property
    def pass_(self) -> np.ndarray:
        """The pass's KilotokRow, ``[rows]``."""
        return self.command["pass"]["row"][: self.rows]

    def set_rows(self, rows: list[tuple[int, int, int, int]]) -> None:
        """Make a new pass of (slot, position, token, run)."""
        self.command["pass"] = np.zeros((), STRUCTS["Pass"])
        self.command["pass"]["rows"] = len(rows)
        for i, row in enumerate(rows):
            self.command["pass"]["row"][i] = row

    def matrix(self, matrix: Record, expert: int = 0) -> np.ndarray:
        """``[tiles * 32, columns]``, unpacked once: weights do not change."""
        key = (expert, *(int(matrix[name]) for name in matrix.dtype.names or ()))
        if key not in self._matrices:
            self._matrices[key] = steps.unpack(self.memory, matrix, expert)
        return self._matrices[key]
