"""The first op in which two interpreters of the same records part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from kilotok.reference import formats
from kilotok.reference.vm.records import STRUCTS, Record, name_of

if TYPE_CHECKING:
    from kilotok.reference.vm import Vm

#: Sums of 32-bit floats in another order, relative to the largest value of a region.
ORDER = 2e-5
#: A bfloat16 and the next one.
ROUNDING = 2.0**-7


class Other(Protocol):
    """What interprets the same records over memory of its own, at the same addresses."""

    def step(self, record: bytes, command: bytes) -> bytes:
        """Run one record; the command afterwards."""

    def read(self, address: int, bytes: int) -> bytes:
        """Memory."""


@dataclass(frozen=True)
class Difference:
    """Where two interpreters part.

    Attributes
    ----------
    op, name : index of the op, and its name.
    region : what it wrote, ``"command"``, or ``"outside of the memory"``.
    error : largest difference, in units of what is tolerated.
    """

    op: int
    name: str
    region: str
    error: float

    def __str__(self) -> str:
        return f"op {self.op} ({self.name}) differs in `{self.region}` by {self.error:.3g} times"


def _kind(region: str) -> str | None:
    """How the bytes of a region are read; None for what only a device writes."""
    word = region.split()[0]
    if region.startswith("partial results") or region == "block":
        return None
    if word in ("residual", "squares", "logits", "rope", "output", "router") or "rope" in region:
        return "f32"
    if word in ("best", "draft", "kept"):
        return "choice"
    if region == "routes":
        return "routes"
    if word in ("x", "taps", "attention", "hidden", "pairs") or region.endswith(
        (".keys", ".values")
    ):
        return "bf16"
    return "bytes"


def _error(kind: str, mine: np.ndarray, theirs: np.ndarray, order: float) -> float:
    """Largest difference in units of what is tolerated."""
    if kind == "bytes":
        return 0.0 if np.array_equal(mine, theirs) else np.inf
    if kind in ("choice", "routes"):
        exact, close = ("token", "score") if kind == "choice" else ("expert", "gate")
        struct = STRUCTS["Choice" if kind == "choice" else "Routes"]
        mine, theirs = mine.view(struct), theirs.view(struct)
        if not np.array_equal(mine[exact], theirs[exact]):
            return np.inf
        mine, theirs = (values[close].copy().view(np.uint8) for values in (mine, theirs))
        return _error("f32", mine, theirs, order)
    if kind == "bf16":
        a, b = (formats.decode_bf16(v.view(np.uint16)) for v in (mine, theirs))
    else:
        a, b = mine.view(np.float32), theirs.view(np.float32)
    same = mine.view(f"u{a.itemsize}" if kind == "f32" else "u2") == theirs.view(
        f"u{a.itemsize}" if kind == "f32" else "u2"
    )
    if same.all():
        return 0.0
    top = np.max(np.abs(b[np.isfinite(b)]), initial=0.0)
    allowed = order * top + (ROUNDING * np.maximum(np.abs(a), np.abs(b)) if kind == "bf16" else 0)
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(a - b) / (allowed + 1e-30))
    return float(np.max(np.where(np.isnan(error), np.inf, error)))


def compare(vm: Vm, other: Other, index: int, order: float = ORDER) -> Difference | None:
    """The largest difference in what an op has written, after both have run it."""
    name = name_of(vm.records[index])
    worst = None
    for region, address, size in vm.program.regions:
        kind = _kind(region)
        # Weights are in the first piece, and no op writes them.
        if kind is None or address < vm.program.pieces[1][0]:
            continue
        mine = vm.machine.memory.bytes(address, size)
        theirs = np.frombuffer(other.read(address, size), np.uint8)
        error = _error(kind, mine, theirs, order)
        if error > 1 and (worst is None or error > worst.error):
            worst = Difference(index, name, region, error)
    return worst


def same_command(a: Record, b: Record) -> bool:
    """Whether two commands have the same rows and runs."""
    rows = int(a["pass"]["rows"])
    if rows != b["pass"]["rows"]:
        return False
    same = np.array_equal(a["pass"]["row"][:rows], b["pass"]["row"][:rows])
    return same and np.array_equal(a["run"], b["run"])


def _take_memory(vm: Vm, other: Other) -> None:
    """Make everything but weights what it is to ``other``."""
    for base, piece in vm.machine.memory.pieces[1:]:
        piece[:] = np.frombuffer(other.read(base, piece.size), np.uint8)


def first_difference(
    vm: Vm,
    line: str,
    command: Record,
    other: Other | None = None,
    order: float = ORDER,
) -> Difference | None:
    """Run a line on both, op by op; None where they agree to the end.

    Both start every op from the same memory, the other's, so that an error is seen in the op that
    makes it and nowhere else. ``other`` runs the records that the engine made, ``vm`` its own; it
    is the engine's interpreter where none is given. ``order``: what is tolerated of a region,
    relative to its largest value.
    """
    other = other or vm.program
    made = np.frombuffer(vm.program.ops, STRUCTS["Op"])
    vm.machine.command, vm.machine.told = command, []
    _take_memory(vm, other)
    for index in vm.line(line, int(command["skip"])):
        before = vm.machine.command.tobytes()
        after = np.frombuffer(other.step(made[index].tobytes(), before), STRUCTS["Command"])[0]
        try:
            with np.errstate(all="ignore"):
                vm.step(index)
                difference = compare(vm, other, index, order)
        except IndexError:
            return Difference(index, name_of(vm.records[index]), "outside of the memory", np.inf)
        if not same_command(vm.machine.command, after):
            return Difference(index, name_of(vm.records[index]), "command", np.inf)
        if difference is not None:
            return difference
        _take_memory(vm, other)
    return None
