"""Packed matrices: steps of 32 rows in the order in which a warp multiplies them.

``cuda/include/kilotok/layout/*_step.cuh`` describe a step; here every element's row, column and
place are computed and all are read at once.
"""

from __future__ import annotations

import numpy as np

from kilotok.reference import formats
from kilotok.reference.vm.memory import Memory
from kilotok.reference.vm.records import BF16, FP8, Record

TILE_ROWS = 32
#: Columns and bytes of a step by format.
SHAPES = {0: (64, 4096), 1: (128, 4224), 2: (64, 1088)}


def _grid(cols: int) -> tuple[np.ndarray, ...]:
    """Half, lane, product and element of all elements of a step, and their rows and columns.

    The A fragment of mma.m16n8k16: register r of lane l holds row l / 4 (+ 8 for odd r); the eight
    elements that a lane has of 32 columns are consecutive.
    """
    half, lane, product, i = np.meshgrid(
        np.arange(2), np.arange(32), np.arange(cols // 16), np.arange(8), indexing="ij"
    )
    register = i // 2
    row = 16 * half + lane // 4 + 8 * (register % 2)
    col = product // 2 * 32 + 8 * (lane % 4) + 4 * (product % 2) + 2 * (register // 2) + i % 2
    return half, lane, product, i, row, col


def _words(steps: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Little-endian 32-bit words of every step ``[n, bytes]`` at bytes ``at``."""
    return steps.view("<u4")[:, at // 4]


def _bf16(steps: np.ndarray) -> np.ndarray:
    half, lane, product, i, row, col = _grid(64)
    at = 2048 * half + 512 * product + 16 * lane + 2 * i
    out = np.full((len(steps), TILE_ROWS, 64), np.nan, np.float32)
    out[:, row, col] = formats.decode_bf16(steps.view("<u2")[:, at // 2])
    return out


def _fp8(steps: np.ndarray) -> np.ndarray:
    half, lane, product, i, row, col = _grid(128)
    # Elements 0..3 of a lane are the low, 4..7 the high codes of two words' halves.
    word = 2048 * half + 512 * (product // 2) + 16 * lane + 8 * (product % 2) + 4 * (i // 2 % 2)
    held = _words(steps, word) >> (16 * (i % 2)) & 0xFFFF
    low = held >> 15 << 7 | held >> 4 & 0x7F
    high = (held >> 11 & 1) << 7 | (held >> 12 & 7) << 4 | held & 15
    factor = steps.view("<f4")[:, (4096 + 4 * row) // 4]
    out = np.full((len(steps), TILE_ROWS, 128), np.nan, np.float32)
    out[:, row, col] = formats.E4M3[np.where(i < 4, low, high)] * factor
    return out


def _mxfp4(steps: np.ndarray) -> np.ndarray:
    half, lane, product, i, row, col = _grid(64)
    word = _words(steps, 512 * half + 16 * lane + 4 * product)
    # Four registers of two bfloat16 each, codes as values times 2^-126 (format/mxfp4.cuh).
    registers = np.stack(
        [
            word & 0x81808180 | word >> 8 & 0x00400040,
            word << 2 & 0x81C081C0,
            word << 6 & 0x81C081C0,
            (word >> 4 | word << 28) & 0x81C081C0,
        ]
    )
    bits = np.choose(i // 2, registers) >> (16 * (i % 2)) & 0xFFFF
    value = formats.decode_bf16(bits.astype(np.uint16)).astype(np.float64) * 2.0**126
    in_half = row % 16
    scale = steps[:, 1024 + 8 * (in_half % 8) + 4 * (col // 32) + 2 * half + in_half // 8]
    out = np.full((len(steps), TILE_ROWS, 64), np.nan, np.float32)
    out[:, row, col] = value * formats.decode_e8m0(scale)
    return out


def unpack(memory: Memory, matrix: Record, expert: int = 0) -> np.ndarray:
    """A KilotokMatrix as ``[tiles * 32, columns]`` 32-bit floats, the filling zeros included."""
    cols, step_bytes = SHAPES[int(matrix["format"])]
    tiles, steps = int(matrix["tiles"]), int(matrix["steps_per_tile"])
    address = int(matrix["steps"]) + expert * int(matrix["expert_bytes"])
    held = memory.array(address, (tiles * steps, step_bytes), np.uint8)
    read = {BF16: _bf16, FP8: _fp8}.get(int(matrix["format"]), _mxfp4)
    values = read(np.ascontiguousarray(held)).reshape(tiles, steps, TILE_ROWS, cols)
    return values.transpose(0, 2, 1, 3).reshape(tiles * TILE_ROWS, steps * cols)
