"""Runs the program of a GPU record by record in numpy: a readable second opinion on every op.

A model is lowered by the engine (`kilotok._core.gpu_program`, a debugging aid that needs no GPU);
records, memory and commands are those of ``cuda/include/kilotok/program.h``. `diff` finds the first
op in which two interpreters part.

>>> vm = Vm.open("python/kilotok/demo/checkpoint")
>>> vm.generate([72, 101, 108], 4)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from kilotok import _core
from kilotok.reference.vm import attention, dense, experts, records, rounds, rules
from kilotok.reference.vm.diff import Difference, first_difference
from kilotok.reference.vm.machine import Machine, Round
from kilotok.reference.vm.memory import Memory

__all__ = ["OPS", "Difference", "Round", "Vm", "first_difference"]

#: The function of every op by its name in the header; each takes the machine and its payload.
OPS: dict[str, Callable[[Machine, records.Record], None]] = {
    function.__name__: function
    for function in (
        dense.embed,
        dense.rope,
        dense.linear,
        attention.attention,
        attention.draft_attention,
        attention.draft_context,
        experts.router,
        experts.moe_up,
        experts.moe_down,
        rules.adjust,
        rules.filter,
        rounds.choose,
        rounds.draft_choose,
        rounds.lay_out,
        rounds.accept,
    )
}


class Vm:
    """A program, its memory, and what runs it.

    Attributes
    ----------
    program : what the engine made of the model; it has an interpreter of its own.
    records : KilotokOp [n], a copy that may be changed.
    lines : first op and the one past the last, by name.
    """

    def __init__(self, program: _core.GpuProgram, blocks: int) -> None:
        self.program = program
        self.records = np.frombuffer(program.ops, records.STRUCTS["Op"]).copy()
        self.lines = program.lines
        pieces = [
            (base, np.frombuffer(program.read(base, size), np.uint8).copy())
            for base, size in program.pieces
        ]
        self.machine = Machine(Memory(pieces), blocks)

    @classmethod
    def open(
        cls,
        path: str | Path,
        slots: int = 1,
        pages: int = 4,
        page_size: int = 16,
        max_positions: int = 64,
        blocks: int = 5,
    ) -> Vm:
        """Lower a model directory, with caches of so much and for a grid of ``blocks`` blocks.

        Raises
        ------
        ModelFormatError
            There is no model, or none that a GPU can run.
        """
        program = _core.gpu_program(str(path), slots, pages, page_size, max_positions, blocks)
        vm = cls(program, blocks)
        vm.set_pages(slots, pages)
        return vm

    def region(self, name: str) -> tuple[int, int]:
        """Address and bytes of a region."""
        return next((at, size) for region, at, size in self.program.regions if region == name)

    def set_pages(self, slots: int, pages: int) -> None:
        """Give every slot its share of the pages, the last page first: none may lie in order."""
        at, size = self.region("page table")
        table = self.machine.memory.array(at, (slots, size // 4 // slots), np.uint32)
        free = iter(range(pages - 1, -1, -1))
        for slot in range(slots):
            for i in range(min(table.shape[1], pages // slots)):
                table[slot, i] = next(free)
        self.program.write(at, table.tobytes())

    def line(self, name: str, skip: int = 0) -> list[int]:
        """Indices of the ops of a line, but for those with a flag of ``skip``."""
        first, end = self.lines[name]
        return [i for i in range(first, end) if not self.records["flags"][i] & skip]

    def step(self, index: int) -> None:
        """Run one op under the machine's command."""
        record = self.records[index]
        OPS[records.name_of(record)](self.machine, records.payload_of(record))

    def run(self, line: str, command: records.Record) -> list[Round]:
        """Run a line as often as the command says, or until a run ends; what its runs did."""
        self.machine.command, self.machine.told = command, []
        for _ in range(int(command["rounds"])):
            for index in self.line(line, int(command["skip"])):
                self.step(index)
            if command["run"]["ended"].any():
                break
        return self.machine.told

    def command(self, rows: Sequence[tuple[int, int, int]] = (), skip: int = 0) -> records.Record:
        """A command over rows of (slot, position, token) that the host gives."""
        command = records.zeros("Command")
        command["rounds"], command["skip"] = 1, skip
        command["pass"]["rows"] = len(rows)
        for i, row in enumerate(rows):
            command["pass"]["row"][i] = (*row, 0)
        return command

    def logits(self) -> np.ndarray:
        """Logits of the newest pass, ``[rows, vocab]``."""
        head = records.payload_of(self.records[self.lines["target"][1] - 1])
        width, stride = int(head["out_width"]), int(head["out_stride"])
        return self.machine.memory.rows_f32(head["out"], self.machine.rows, width, stride)

    def feed(self, prompt: Sequence[int], slot: int = 0) -> np.ndarray:
        """Verify a prompt and make it drafter context; logits of its last row."""
        for start in range(0, len(prompt), self.program.pass_rows):
            part = prompt[start : start + self.program.pass_rows]
            rows = [(slot, start + i, int(token)) for i, token in enumerate(part)]
            command = self.command(rows)
            self.run("target", command)
            self.run("context", command)
        return self.logits()[-1]

    def generate(self, prompt: Sequence[int], tokens: int, drafts: int = 0) -> list[int]:
        """Decode greedily in rounds on the device, with ``drafts`` drafts verified per round.

        Raises
        ------
        ValueError
            The caches are too small, or there is no drafter.
        """
        if len(prompt) + tokens + self.program.pass_rows > self.capacity:
            raise ValueError(f"{len(prompt)} + {tokens} tokens do not fit {self.capacity}")
        if drafts > max(self.program.block_rows - 1, 0):
            raise ValueError(f"{drafts} drafts, the drafter makes {self.program.block_rows - 1}")
        out = [int(np.argmax(self.feed(prompt)))]
        run = records.zeros("Run")
        run["position"], run["anchor"] = len(prompt), out[0]
        run["drafts"], run["remaining"] = drafts, tokens - 1
        while len(out) < tokens:
            command = self.command(skip=0 if drafts else records.FLAG_DRAFT)
            command["num_runs"], command["run"][0] = 1, run
            told = self.run("round" if drafts else "plain_round", command)
            out += told[0].tokens
            run = command["run"][0].copy()
        return out

    @property
    def capacity(self) -> int:
        """Positions of a slot."""
        attention_ops = [r for r in self.records if records.name_of(r) == "attention"]
        paged = [p for p in map(records.payload_of, attention_ops) if p["page_table"]]
        return min((int(p["max_pages"]) * int(p["positions"]) for p in paged), default=1 << 30)
