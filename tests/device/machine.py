"""Runs single ops: on the GPU, or on the CPU by emulation of what the device does."""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np
from program import CONSTANTS, PAYLOADS, STRUCTS, zeros


@dataclass
class Machine(ABC):
    """Ops over numpy arrays, which are read and written in place.

    Attributes
    ----------
    blocks : int
        Blocks of the grid; results may not depend on it.
    """

    blocks: int = 1
    mailbox: np.ndarray = field(default_factory=lambda: zeros("KilotokMailbox"))

    def run(self, op: str, command: np.ndarray, **fields) -> None:
        """Run ``op`` on the rows of the command's pass; arrays among ``fields`` are its buffers."""
        dtype = STRUCTS[PAYLOADS[op]]
        payload = np.zeros((), dtype)
        buffers = []
        for name, value in fields.items():
            if isinstance(value, np.ndarray):
                assert value.flags.c_contiguous
                assert dtype[name] == np.uint64
                buffers.append((dtype.fields[name][1], value))
            elif value is not None:
                payload[name] = value
        self.launch(CONSTANTS[f"KILOTOK_OP_{op}"], payload, buffers, command)

    @abstractmethod
    def launch(self, kind, payload, buffers, command) -> None:
        """Run one op; ``buffers`` are (offset of the address in the payload, array)."""


class Emulator(Machine):
    """Fibers on the CPU, in an order that depends on a seed."""

    def __init__(self, library: str, blocks: int = 1) -> None:
        super().__init__(blocks)
        self.library = ctypes.CDLL(library)
        self.seed = 0

    def launch(self, kind, payload, buffers, command) -> None:
        data = bytearray(payload.tobytes())
        for offset, array in buffers:
            data[offset : offset + 8] = array.ctypes.data.to_bytes(8, "little")
        raw = (ctypes.c_uint8 * len(data)).from_buffer(data)
        self.seed += 1
        self.library.kilotok_emulate(
            kind,
            raw,
            ctypes.c_void_p(command.ctypes.data),
            ctypes.c_void_p(self.mailbox.ctypes.data),
            self.blocks,
            self.seed,
        )


class Gpu(Machine):
    """The GPU with index 0."""

    #: Mean time of the last ``repeats`` launches, in microseconds.
    microseconds = 0.0
    repeats = 1

    def launch(self, kind, payload, buffers, command) -> None:
        from kilotok import _core

        places, arrays = [], []
        for offset, array in buffers:
            index = next((i for i, a in enumerate(arrays) if a is array), len(arrays))
            if index == len(arrays):
                arrays.append(array)
            places.append((offset, index))
        results, told, mail, self.microseconds = _core.gpu_op(
            kind,
            payload.tobytes(),
            places,
            [array.tobytes() for array in arrays],
            command.tobytes(),
            self.mailbox.tobytes(),
            self.blocks,
            self.repeats,
        )
        for array, result in zip(arrays, results, strict=True):
            array.reshape(-1)[...] = np.frombuffer(result, array.dtype)
        command[...] = np.frombuffer(told, command.dtype)[0]
        self.mailbox[...] = np.frombuffer(mail, self.mailbox.dtype)[0]
