"""Device memory as the records see it: pieces that start at addresses of their own."""

from __future__ import annotations

from typing import Any

import numpy as np

from kilotok.reference import formats


class Memory:
    """Bytes by address.

    Parameters
    ----------
    pieces : list of (address, uint8 array)
        Written in place.
    """

    def __init__(self, pieces: list[tuple[int, np.ndarray]]) -> None:
        self.pieces = pieces

    def bytes(self, address: int, count: int) -> np.ndarray:
        """A view of ``count`` bytes.

        Raises
        ------
        IndexError
            They are not all there.
        """
        for base, piece in self.pieces:
            if base <= address and address + count <= base + piece.size:
                return piece[address - base : address - base + count]
        raise IndexError(f"{count} bytes at {address:#x} are outside of the memory")

    def array(self, address: int, shape: tuple[int, ...] | int, dtype: Any) -> np.ndarray:
        """A view of an array."""
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.bytes(int(address), count).view(dtype).reshape(shape)

    def f32(self, address: int, shape: tuple[int, ...] | int) -> np.ndarray:
        """A view of 32-bit floats."""
        return self.array(address, shape, np.float32)

    def bf16(self, address: int, shape: tuple[int, ...] | int) -> np.ndarray:
        """Values of bfloat16 elements, as 32-bit floats: a copy."""
        return formats.decode_bf16(self.array(address, shape, np.uint16))

    def rows_f32(self, address: int, rows: int, width: int, stride: int) -> np.ndarray:
        """A view of ``[rows, width]`` floats, ``stride`` elements from row to row."""
        return self.f32(address, (rows - 1) * stride + width if rows else 0)[
            np.arange(rows)[:, None] * stride + np.arange(width)
        ]

    def rows_bf16(self, address: int, rows: int, width: int, stride: int) -> np.ndarray:
        """The same of bfloat16 elements."""
        count = (rows - 1) * stride + width if rows else 0
        return self.bf16(address, count)[np.arange(rows)[:, None] * stride + np.arange(width)]

    def put_f32(self, address: int, stride: int, values: np.ndarray) -> None:
        """Write ``[rows, width]`` values."""
        for row, value in enumerate(values):
            self.f32(int(address) + row * int(stride) * 4, value.size)[:] = value

    def put_bf16(self, address: int, stride: int, values: np.ndarray) -> None:
        """Write ``[rows, width]`` values, rounded to the nearest bfloat16."""
        for row, value in enumerate(values):
            to = self.array(int(address) + row * int(stride) * 2, value.size, np.uint16)
            to[:] = formats.encode_bf16(value)


class Cache:
    """Keys or values ``[blocks][kv_heads][positions][dim]`` bfloat16; blocks are pages or slots."""

    def __init__(self, memory: Memory, base: int, kv_heads: int, positions: int, dim: int) -> None:
        self.memory, self.base = memory, int(base)
        self.kv_heads, self.positions, self.dim = int(kv_heads), int(positions), int(dim)

    def _address(self, block: int, head: int, position: int) -> int:
        row = (block * self.kv_heads + head) * self.positions + position
        return self.base + row * self.dim * 2

    def put(self, block: int, position: int, heads: np.ndarray) -> None:
        """Write one position of every head: ``[kv_heads, dim]``."""
        for head, values in enumerate(heads):
            self.memory.put_bf16(self._address(block, head, position), self.dim, values[None])

    def get(self, blocks: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Positions of every head, ``[n, kv_heads, dim]``, each in a block of its own."""
        out = np.empty((len(positions), self.kv_heads, self.dim), np.float32)
        for i, (block, position) in enumerate(zip(blocks, positions, strict=True)):
            for head in range(self.kv_heads):
                out[i, head] = self.memory.bf16(
                    self._address(int(block), head, int(position)), self.dim
                )
        return out
