"""The tensors of a checkpoint directory, read piece by piece so that memory stays small."""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kilotok.errors import ModelFormatError

__all__ = ["INDEX", "Source", "Tensor", "element_size"]

INDEX = "model.safetensors.index.json"

#: Sidecars that are no weight files.
_SIDECARS = {"mask_embedding.safetensors"}

_SIZES = {
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "U16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "U8": 1,
    "I8": 1,
    "BOOL": 1,
}

#: Far more than the header of any checkpoint; a longer one is a damaged file.
_LARGEST_HEADER = 1 << 30


def element_size(dtype: str) -> int:
    """Bytes of one element of a safetensors dtype.

    Raises
    ------
    KeyError
        The dtype is not known.
    """
    return _SIZES[dtype]


@dataclass(frozen=True)
class Tensor:
    """One stored tensor: where it is, not what it holds."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    num_bytes: int

    def read(self, start: int = 0, end: int | None = None) -> bytes:
        """Bytes `start` to `end` of the tensor."""
        end = self.num_bytes if end is None else end
        with self.file.open("rb", buffering=0) as file:
            parts, at = [], self.start + start
            while at < self.start + end:
                part = os.pread(file.fileno(), self.start + end - at, at)
                if not part:
                    raise ModelFormatError(f"{self.file.name}: {self.name}: the file is cut")
                parts.append(part)
                at += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def pieces(self, size: int = 16 << 20) -> Iterator[bytes]:
        """All bytes, at most `size` of them at a time."""
        for start in range(0, self.num_bytes, size):
            yield self.read(start, min(start + size, self.num_bytes))


class Source:
    """A checkpoint directory.

    Attributes
    ----------
    config : dict
        Contents of `config.json`.
    tensors : dict of str to Tensor
        All weights, by name.
    files : list of Path
        Weight files in name order: those that the index names, or all without an index.
    metadata : dict
        `metadata` of the index.

    Raises
    ------
    ModelFormatError
        A file is missing, damaged or contradicts the index.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = _json(directory / "config.json")
        index = directory / INDEX
        self.metadata: dict[str, Any] = {}
        weight_map: Any = None
        if index.is_file():
            contents = _json(index)
            weight_map = contents.get("weight_map")
            if not isinstance(weight_map, dict) or not all(
                isinstance(name, str) and Path(name).name == name for name in weight_map.values()
            ):
                raise ModelFormatError(f"{INDEX}: weight_map is missing or names other folders")
            self.metadata = dict(contents.get("metadata") or {})
            self.files = sorted({directory / name for name in weight_map.values()})
        else:
            found = directory.glob("*.safetensors")
            self.files = sorted(file for file in found if file.name not in _SIDECARS)
        if not self.files:
            raise ModelFormatError(f"{directory}: no file ends in .safetensors")
        self.tensors: dict[str, Tensor] = {}
        for file in self.files:
            for tensor in _header(file):
                if tensor.name in self.tensors:
                    other = self.tensors[tensor.name].file.name
                    raise ModelFormatError(f"{file.name}: {tensor.name}: also in {other}")
                self.tensors[tensor.name] = tensor
        for name, where in (weight_map or {}).items():
            if name not in self.tensors or self.tensors[name].file.name != where:
                raise ModelFormatError(f"{INDEX}: {name}: {where} does not hold this tensor")

    def others(self) -> list[Path]:
        """Files beside the weights, relative to the directory: configs, tokenizer, drafter."""
        weights = {*self.files, self.directory / INDEX}
        found = []
        for path in sorted(self.directory.rglob("*")):
            inside = path.relative_to(self.directory)
            hidden = any(part.startswith(".") for part in inside.parts)
            if path.is_file() and path not in weights and not hidden:
                found.append(inside)
        return found


def _json(path: Path) -> dict[str, Any]:
    try:
        contents = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFormatError(f"{path.name}: {error}") from error
    if not isinstance(contents, dict):
        raise ModelFormatError(f"{path.name}: expected a JSON object")
    return contents


def _header(file: Path) -> list[Tensor]:
    """Tensors of a safetensors file, in order of their bytes."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > min(_LARGEST_HEADER, size - 8):
                raise ModelFormatError(f"{file.name}: a header of {length} bytes does not fit")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        found = []
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            shape = tuple(int(dim) for dim in entry["shape"])
            expected = math.prod(shape) * element_size(entry["dtype"])
            if end - start != expected or start < 0 or 8 + length + end > size:
                raise ModelFormatError(
                    f"{file.name}: {name}: bytes {start} to {end} do not hold "
                    f"{entry['dtype']} {list(shape)}, or the file is cut"
                )
            found.append(Tensor(name, entry["dtype"], shape, file, 8 + length + start, end - start))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFormatError(f"{file.name}: not a safetensors file: {error!r}") from error
    return sorted(found, key=lambda tensor: tensor.start)
