"""What a conversion writes: every tensor of every file, known before any data is read."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from kilotok.errors import InvalidRequestError, ModelFormatError
from kilotok.reference.formats import encode_bf16
from kilotok.training.convert.experts import Bias, Codes, Matrix, find_experts
from kilotok.training.convert.source import Source, Tensor, element_size
from kilotok.training.quantize import BLOCK, Distortion, ScaleRule, quantize_mxfp4

__all__ = ["Experts", "Importance", "Item", "Options", "Shard", "Written", "make_plan"]

#: What experts become.
Experts = Literal["mxfp4", "bf16"]

#: Mean square of the inputs of matrices, float32 [cols], by matrix name without ``.weight``.
Importance = dict[str, np.ndarray]


@dataclass(frozen=True)
class Written:
    """One tensor of an output file."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of its elements."""
        return int(np.prod(self.shape, dtype=np.int64)) * element_size(self.dtype)


@dataclass(frozen=True)
class Options:
    """What a conversion was asked for."""

    experts: Experts = "mxfp4"
    scale: ScaleRule = "max"
    importance: Importance = field(default_factory=dict)

    def weights_of(self, name: str) -> np.ndarray | None:
        """Column weights of a matrix: its own, or those of all experts of its layer."""
        prefix, _, part = name.rpartition(".")
        layer = prefix.rpartition(".")[0]
        shared = "gate_up_proj" if part in ("gate_proj", "up_proj") else part
        for candidate in (name, f"{layer}.{part}", f"{layer}.{shared}"):
            if candidate in self.importance:
                return self.importance[candidate]
        return None


class Item:
    """One stored tensor, and what is written in its place."""

    def __init__(self, source: Tensor | Matrix | Codes | Bias, options: Options) -> None:
        self._source = source
        self._options = options

    @property
    def read_bytes(self) -> int:
        """Stored bytes behind it, roughly: for progress."""
        source = self._source
        if isinstance(source, Tensor):
            return source.num_bytes
        return source.tensor.num_bytes // max(_share(source), 1)

    @property
    def written(self) -> list[Written]:
        """Tensors in the order in which `produce` yields their bytes."""
        source = self._source
        if isinstance(source, Tensor):
            return [Written(source.name, source.dtype, source.shape)]
        if isinstance(source, Bias):
            return [Written(f"{source.name}.bias", source.tensor.dtype, (source.rows,))]
        name, rows, cols = source.name, source.rows, source.cols
        if self._options.experts == "bf16":
            return [Written(f"{name}.weight", "BF16", (rows, cols))]
        return [
            Written(f"{name}.weight", "U8", (rows, cols // 2)),
            Written(f"{name}.weight_scale", "U8", (rows, cols // BLOCK)),
        ]

    @property
    def matrix(self) -> str | None:
        """Name of the expert matrix, if it is one."""
        return self._source.name if isinstance(self._source, Matrix | Codes) else None

    def produce(self) -> Iterator[bytes | Distortion]:
        """Bytes of `written`, in pieces, and what rounding did to an expert matrix.

        Raises
        ------
        ModelFormatError
            The stored values are not finite, or the file is cut.
        """
        source, options = self._source, self._options
        if isinstance(source, Tensor):
            yield from source.pieces()
        elif isinstance(source, Bias):
            yield source.read()
        elif options.experts == "bf16":
            values = source.read() if isinstance(source, Matrix) else source.values()
            bits = encode_bf16(values)
            error = np.abs(values.astype(np.float64) - (bits.astype(np.uint32) << 16).view("<f4"))
            yield bits.astype("<u2").tobytes()
            yield _plain_distortion(values, error)
        elif isinstance(source, Codes):
            nibbles, scales = source.read()
            yield nibbles.tobytes()
            yield scales.tobytes()
            yield Distortion(elements=source.rows * source.cols)
        else:
            try:
                nibbles, scales, distortion = quantize_mxfp4(
                    source.read(), scale=options.scale, importance=options.weights_of(source.name)
                )
            except ValueError as error_found:
                where = f"{source.tensor.file.name}: {source.tensor.name} (as {source.name})"
                raise ModelFormatError(f"{where}: {error_found}") from error_found
            yield nibbles.tobytes()
            yield scales.tobytes()
            yield distortion


def _plain_distortion(values: np.ndarray, error: np.ndarray) -> Distortion:
    squares = float(np.square(values.astype(np.float64)).sum())
    return Distortion(
        float(np.square(error).sum()), squares, float(error.max(initial=0.0)), 0, values.size
    )


def _share(source: Matrix | Codes | Bias) -> int:
    if isinstance(source, Matrix) and not source.stacked:
        return 1
    if isinstance(source, Codes) and source.expert is None:
        return 1
    return source.tensor.shape[0] * source.parts


@dataclass(frozen=True)
class Shard:
    """One output file."""

    name: str
    items: tuple[Item, ...]

    @property
    def written(self) -> list[Written]:
        """Its tensors, in order of their bytes."""
        return [tensor for item in self.items for tensor in item.written]

    @property
    def header(self) -> bytes:
        """Length prefix and header of the safetensors file."""
        entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        at = 0
        for tensor in self.written:
            end = at + tensor.num_bytes
            entries[tensor.name] = {
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "data_offsets": [at, end],
            }
            at = end
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    @property
    def num_bytes(self) -> int:
        """Bytes of the file."""
        return len(self.header) + sum(tensor.num_bytes for tensor in self.written)


def make_plan(source: Source, options: Options) -> list[Shard]:
    """One output file per weight file, of the same name.

    Raises
    ------
    ModelFormatError
        An expert tensor is not understood, or its columns are not blocks of 32.
    InvalidRequestError
        There are no experts, or the importance of a matrix does not fit its columns.
    """
    experts = find_experts(source)
    if not any(isinstance(part, Matrix | Codes) for parts in experts.values() for part in parts):
        raise InvalidRequestError("source", f"{source.directory} has no expert matrices")
    by_file: dict[Path, list[Item]] = {file: [] for file in source.files}
    for name, tensor in source.tensors.items():
        parts: list[Tensor | Matrix | Codes | Bias] = [*experts.get(name, [tensor])]
        for part in parts:
            if isinstance(part, Matrix):
                _check(part, options)
            by_file[tensor.file].append(Item(part, options))
    shards = [Shard(file.name, tuple(items)) for file, items in by_file.items()]
    seen: dict[str, str] = {}
    for shard in shards:
        for written in shard.written:
            if written.name in seen:
                raise ModelFormatError(
                    f"{shard.name}: {written.name} would be written twice, as it is stored both "
                    "alone and in a tensor that holds all experts"
                )
            seen[written.name] = shard.name
    return shards


def _check(matrix: Matrix, options: Options) -> None:
    if options.experts == "mxfp4" and matrix.cols % BLOCK:
        raise ModelFormatError(
            f"{matrix.tensor.file.name}: {matrix.name}: {matrix.cols} columns are not a multiple "
            f"of {BLOCK}, so it cannot be MXFP4"
        )
    weights = options.weights_of(matrix.name)
    if weights is not None and weights.shape != (matrix.cols,):
        raise InvalidRequestError(
            "calibrate",
            f"the importance of {matrix.name} has shape {list(weights.shape)}, expected "
            f"[{matrix.cols}]",
        )
