"""Which stored tensors are expert matrices, and how to read one of them.

===================================  =========================================================
stored                               matrices
===================================  =========================================================
``experts.E.gate_proj.weight``       one: BF16, F16, F32; FP8 with ``weight_scale_inv``; MXFP4
``experts.gate_up_proj``             all of a layer, ``[E, 2 rows, cols]``: gates, then ups
the same in gpt-oss                  ``[E, cols, 2 rows]``: gate and up columns alternate
``experts.gate_up_proj_blocks``      gpt-oss MXFP4, ``[E, 2 rows, cols / 32, 16]``, alternating
===================================  =========================================================

and the same for ``down_proj``, which is a single matrix per expert.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from kilotok.errors import ModelFormatError
from kilotok.reference.formats import decode_bf16, decode_fp8
from kilotok.training.convert.source import Source, Tensor
from kilotok.training.quantize import BLOCK, dequantize_mxfp4

__all__ = ["Bias", "Codes", "Matrix", "find_experts"]

_ONE = re.compile(r"(.*\.experts\.\d+\.(?:gate_proj|up_proj|down_proj|w1|w2|w3))\.weight")
_STACKED = re.compile(r"(.*\.experts)\.(gate_up|down)_proj(_blocks|_scales|_bias|_scale_inv|)")
_PARTS = {"gate_up": ("gate_proj", "up_proj"), "down": ("down_proj",)}
_FLOATS = ("BF16", "F16", "F32")


@dataclass(frozen=True)
class Matrix:
    """One expert matrix ``[rows, cols]`` whose values are floats, however they are stored.

    `expert` and `part` (of `parts`) select from a tensor that holds all of a layer; `stacked`
    says how: ``""`` (one matrix per tensor), ``"blocks"`` of rows, or ``"columns"`` that alternate.
    """

    name: str
    rows: int
    cols: int
    tensor: Tensor
    scale: Tensor | None = None
    stacked: str = ""
    expert: int = 0
    part: int = 0
    parts: int = 1

    def read(self) -> np.ndarray:
        """Values, float32 [rows, cols]."""
        whole = _expert(self.tensor, self.scale, self.expert, bool(self.stacked))
        if self.stacked == "blocks":
            whole = whole[self.part * self.rows : (self.part + 1) * self.rows]
        elif self.stacked == "columns":
            whole = whole[:, self.part :: self.parts].T
        return np.ascontiguousarray(whole, np.float32)


@dataclass(frozen=True)
class Codes:
    """One expert matrix that is MXFP4 already: its bytes are taken as they are."""

    name: str
    rows: int
    cols: int
    tensor: Tensor
    scale: Tensor
    expert: int | None = None
    part: int = 0
    parts: int = 1

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Nibbles, uint8 [rows, cols / 2], and scales, uint8 [rows, cols / 32]."""
        found = []
        for tensor, width in ((self.tensor, self.cols // 2), (self.scale, self.cols // BLOCK)):
            raw = np.frombuffer(_slab(tensor, self.expert), np.uint8).reshape(-1, width)
            found.append(np.ascontiguousarray(raw[self.part :: self.parts]))
        if (found[1] == 255).any():
            raise ModelFormatError(f"{self.scale.name}: an e8m0 scale is 255, which is NaN")
        return found[0], found[1]

    def values(self) -> np.ndarray:
        """Values, float32 [rows, cols]."""
        return dequantize_mxfp4(*self.read())


@dataclass(frozen=True)
class Bias:
    """The bias of one expert matrix, ``[rows]``, in a tensor that holds all of a layer."""

    name: str
    rows: int
    tensor: Tensor
    expert: int
    part: int
    parts: int

    def read(self) -> bytes:
        """Elements, in the stored dtype."""
        size = self.tensor.num_bytes // int(np.prod(self.tensor.shape))
        raw = np.frombuffer(_slab(self.tensor, self.expert), np.uint8).reshape(-1, size)
        return raw[self.part :: self.parts].tobytes()


def find_experts(source: Source) -> dict[str, list[Matrix | Codes | Bias]]:
    """Expert matrices by the name of the stored tensor that they are in.

    Scales are used up by their weights: their names map to an empty list.

    Raises
    ------
    ModelFormatError
        An expert tensor whose dtype, shape or scales are not understood.
    """
    interleaved = source.config.get("model_type") == "gpt_oss"
    found: dict[str, list[Matrix | Codes | Bias]] = {}
    for name, tensor in source.tensors.items():
        if one := _ONE.fullmatch(name):
            found |= _single(source, one[1], tensor)
        elif stacked := _STACKED.fullmatch(name):
            found |= _stack(source, stacked[1], stacked[2], stacked[3], tensor, interleaved)
    return found


def _single(source: Source, name: str, tensor: Tensor) -> dict[str, list[Matrix | Codes | Bias]]:
    if len(tensor.shape) != 2:
        raise _bad(tensor, "expected a matrix")
    rows, cols = tensor.shape
    if tensor.dtype in _FLOATS:
        return {tensor.name: [Matrix(name, rows, cols, tensor)]}
    if tensor.dtype == "F8_E4M3":
        scale = _partner(source, tensor, "weight", "weight_scale_inv")
        return {tensor.name: [Matrix(name, rows, cols, tensor, scale)], scale.name: []}
    if tensor.dtype == "U8":
        scale = _partner(source, tensor, "weight", "weight_scale")
        if scale.shape != (rows, cols * 2 // BLOCK) or cols * 2 % BLOCK:
            raise _bad(scale, f"expected shape {[rows, cols * 2 // BLOCK]}")
        return {tensor.name: [Codes(name, rows, cols * 2, tensor, scale)], scale.name: []}
    raise _bad(tensor, f"expected {', '.join(_FLOATS)}, F8_E4M3 or U8 (MXFP4)")


def _stack(
    source: Source, prefix: str, kind: str, what: str, tensor: Tensor, interleaved: bool
) -> dict[str, list[Matrix | Codes | Bias]]:
    names = _PARTS[kind]
    shape, parts = tensor.shape, len(names)
    if what in ("_scales", "_scale_inv"):
        return {tensor.name: []}

    def each() -> list[tuple[str, int, int]]:
        return [
            (f"{prefix}.{expert}.{names[part]}", expert, part)
            for expert in range(shape[0])
            for part in range(parts)
        ]

    if what == "_bias":
        if len(shape) != 2 or shape[1] % parts:
            raise _bad(tensor, f"expected [experts, {parts} x rows]")
        rows = shape[1] // parts
        return {tensor.name: [Bias(n, rows, tensor, e, p, parts) for n, e, p in each()]}
    if what == "_blocks":
        scale = _partner(source, tensor, "_blocks", "_scales")
        if len(shape) != 4 or shape[3] != BLOCK // 2 or shape[1] % parts or tensor.dtype != "U8":
            raise _bad(tensor, f"expected U8 [experts, {parts} x rows, cols / 32, 16]")
        if scale.shape != shape[:3] or scale.dtype != "U8":
            raise _bad(scale, f"expected U8 {list(shape[:3])}")
        rows, cols = shape[1] // parts, shape[2] * BLOCK
        return {
            tensor.name: [Codes(n, rows, cols, tensor, scale, e, p, parts) for n, e, p in each()]
        }
    if len(shape) != 3:
        raise _bad(tensor, "expected [experts, rows, cols]")
    scale_inv = None
    if tensor.dtype == "F8_E4M3":
        scale_inv = _partner(source, tensor, "_proj", "_proj_scale_inv")
    elif tensor.dtype not in _FLOATS:
        raise _bad(tensor, f"expected {', '.join(_FLOATS)} or F8_E4M3")
    out, cols = (shape[2], shape[1]) if interleaved else (shape[1], shape[2])
    if out % parts:
        raise _bad(tensor, f"{out} rows are not {parts} x rows")
    how = "columns" if interleaved else "blocks"
    rows = out // parts
    return {
        tensor.name: [
            Matrix(n, rows, cols, tensor, scale_inv, how, e, p, parts) for n, e, p in each()
        ]
    }


def _partner(source: Source, tensor: Tensor, ending: str, other: str) -> Tensor:
    name = tensor.name.removesuffix(ending) + other
    if name not in source.tensors:
        raise ModelFormatError(f"{tensor.file.name}: {name} is missing beside {tensor.name}")
    return source.tensors[name]


def _bad(tensor: Tensor, reason: str) -> ModelFormatError:
    return ModelFormatError(
        f"{tensor.file.name}: {tensor.name}: {tensor.dtype} {list(tensor.shape)}: {reason}"
    )


def _slab(tensor: Tensor, expert: int | None) -> bytes:
    """Bytes of one expert, or of the whole tensor."""
    if expert is None:
        return tensor.read()
    each = tensor.num_bytes // tensor.shape[0]
    return tensor.read(expert * each, (expert + 1) * each)


@lru_cache(maxsize=1)
def _expert(tensor: Tensor, scale: Tensor | None, expert: int, stacked: bool) -> np.ndarray:
    """Values of one expert's slab, float32; kept for the other matrices that lie in it."""
    which = expert if stacked else None
    raw, shape = _slab(tensor, which), tensor.shape[-2:]
    if scale is not None:
        codes = np.frombuffer(raw, np.uint8).reshape(shape)
        if scale.dtype != "F32":
            raise _bad(scale, "expected F32")
        factors = np.frombuffer(_slab(scale, which), "<f4").reshape(scale.shape[-2:])
        try:
            return decode_fp8(codes, factors, name=tensor.name)
        except ValueError as error:
            raise ModelFormatError(f"{tensor.file.name}: {error}") from error
    if tensor.dtype == "BF16":
        return decode_bf16(np.frombuffer(raw, "<u2").reshape(shape))
    kind = "<f4" if tensor.dtype == "F32" else "<f2"
    return np.frombuffer(raw, kind).reshape(shape).astype(np.float32)
