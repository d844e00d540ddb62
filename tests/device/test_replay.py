"""Whole lines of a lowered model: device code on the CPU against the program in numpy.

Ops that stream no weights are run by the emulator on the memory and the records of a program as it
is loaded; matrices are multiplied by the engine's interpreter in between.
"""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from machine import Emulator
from program import CONSTANTS, PAYLOADS, STRUCTS

from kilotok.loading import demo_checkpoint
from kilotok.reference import vm
from kilotok.reference.vm import records

#: Weights of a softmax, queries and results are rounded to bfloat16 on the device.
ORDER = 2.0**-7


class Emulated:
    """Memory of a program, run by device code as far as the emulator goes."""

    def __init__(self, program, library: str, blocks: int) -> None:
        self.program = program
        self.emulator = Emulator(library, blocks)
        self.kinds = {CONSTANTS[f"KILOTOK_OP_{op}"]: STRUCTS[PAYLOADS[op]] for op in PAYLOADS}
        self.ran = set()
        self.pieces = []
        for base, size in program.pieces:
            # Copies of 16 bytes are asked for: a multiple of 256 like on the device.
            held = np.zeros(size + 256, np.uint8)
            start = -held.ctypes.data % 256
            piece = held[start : start + size]
            piece[:] = np.frombuffer(program.read(base, size), np.uint8)
            self.pieces.append((base, piece))

    def host(self, address: int) -> int:
        """The host's address of a device address; 0 stays 0."""
        for base, piece in self.pieces:
            if base <= address < base + piece.size:
                return piece.ctypes.data + address - base
        assert address == 0
        return 0

    def read(self, address: int, size: int) -> bytes:
        for base, piece in self.pieces:
            if base <= address and address + size <= base + piece.size:
                return piece[address - base : address - base + size].tobytes()
        raise IndexError(address)

    def step(self, record: bytes, command: bytes) -> bytes:
        op = np.frombuffer(record, STRUCTS["KilotokOp"])[0]
        kind = int(op["kind"])
        dtype = self.kinds.get(kind)
        if dtype is None:
            for base, piece in self.pieces[1:]:
                self.program.write(base, piece.tobytes())
            after = self.program.step(record, command)
            for base, piece in self.pieces[1:]:
                piece[:] = np.frombuffer(self.program.read(base, piece.size), np.uint8)
            return after
        payload = np.frombuffer(op["payload"].tobytes()[: dtype.itemsize], dtype).copy()[0]
        for field in dtype.names:
            if dtype[field] == np.uint64:
                payload[field] = self.host(int(payload[field]))
        held = np.frombuffer(command, STRUCTS["KilotokCommand"]).copy().reshape(())
        self.ran.add(kind)
        self.emulator.mailbox["num_rounds"] = 0
        self.emulator.launch(kind, payload, [], held)
        return held.tobytes()


@pytest.fixture(scope="module")
def replay(emulator_library):
    blocks = 3
    machine = vm.Vm.open(demo_checkpoint(), blocks=blocks)
    return machine, Emulated(machine.program, emulator_library, blocks)


def test_device_code_runs_the_demos_program(replay):
    machine, device = replay
    tokens = [72, 101, 108, 108, 111, 32, 119]

    def check(line, command):
        assert vm.first_difference(machine, line, command, device, ORDER) is None

    command = machine.command([(0, i, token) for i, token in enumerate(tokens)])
    check("target", command)
    check("context", command)
    for temperature in (0.0, 0.8):
        command = machine.command()
        command["num_runs"] = 1
        run = command["run"][0]
        run["position"], run["anchor"], run["remaining"], run["drafts"] = 7, 111, 9, 3
        run["temperature"], run["seed"] = temperature, 5
        check("round", command)
    command["num_runs"] = 1
    run["rules"], run["temperature"] = 1 | 2 | 4, 0.9
    run["top_k"], run["top_p"], run["min_p"] = 50, 0.9, 0.01
    run["repetition"], run["presence"], run["frequency"] = 1.2, 0.1, 0.3
    check("round", command)
    assert {records.KINDS[kind][0] for kind in device.ran} == {op.lower() for op in PAYLOADS}


def test_a_wrong_record_is_found_by_device_code(replay):
    machine, device = replay
    index = next(
        i for i in machine.line("target") if records.name_of(machine.records[i]) == "attention"
    )
    sound = machine.records.copy()
    machine.records[index]["payload"].view(np.uint32)[0] += ctypes.sizeof(ctypes.c_float) * 32
    difference = vm.first_difference(
        machine, "target", machine.command([(0, 0, 72)]), device, ORDER
    )
    machine.records[:] = sound
    assert (difference.op, difference.name) == (index, "attention")
