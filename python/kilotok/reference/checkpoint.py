"""Reading safetensors directories into numpy, for every dtype the checkpoints use."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kilotok.reference.errors import FormatError
from kilotok.reference.formats import decode_bf16, decode_fp8, decode_mxfp4

_NUMPY: dict[str, np.dtype] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F8_E4M3": np.dtype("u1"),
    "U8": np.dtype("u1"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
}


@dataclass(frozen=True)
class Stored:
    """One tensor as stored: safetensors dtype name and its raw elements (BF16 as uint16)."""

    dtype: str
    data: np.ndarray


def read_safetensors(path: Path) -> dict[str, Stored]:
    """Read every tensor of one safetensors file."""
    blob = path.read_bytes()
    (length,) = struct.unpack_from("<Q", blob)
    header = json.loads(blob[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in _NUMPY:
            raise FormatError(f"{path.name}: {name}: dtype {entry['dtype']} is not supported")
        begin, end = entry["data_offsets"]
        raw = np.frombuffer(blob, np.uint8, end - begin, 8 + length + begin)
        tensors[name] = Stored(
            entry["dtype"], raw.view(_NUMPY[entry["dtype"]]).reshape(entry["shape"])
        )
    return tensors


@dataclass
class Checkpoint:
    """A model directory: ``config.json`` plus all tensors of its safetensors files."""

    path: Path
    config: dict
    tensors: dict[str, Stored] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | Path) -> Checkpoint:
        """Read a directory; with an index, exactly the files the index names."""
        path = Path(path)
        config = json.loads((path / "config.json").read_text())
        indexes = sorted(path.glob("*.safetensors.index.json"))
        if indexes:
            weight_map = json.loads(indexes[0].read_text())["weight_map"]
            files = sorted({path / name for name in weight_map.values()})
        else:
            files = sorted(f for f in path.glob("*.safetensors") if f.stem != "mask_embedding")
        tensors: dict[str, Stored] = {}
        for file in files:
            tensors.update(read_safetensors(file))
        return cls(path, config, tensors)

    def array(self, name: str, chunks: int = 1) -> np.ndarray:
        """Read a tensor as float32, decoded by its dtype and its companion scale tensor.

        Parameters
        ----------
        name : tensor name, ending in ``.weight`` for matrices.
        chunks : chunk count of the FP8 scale grid (fused qkv only).
        """
        if name not in self.tensors:
            raise FormatError(f"{self.path.name}: tensor {name} is missing")
        stored = self.tensors[name]
        if stored.dtype == "BF16":
            return decode_bf16(stored.data)
        if stored.dtype == "F8_E4M3":
            scale = self.tensors.get(f"{name}_scale_inv")
            if scale is None:
                raise FormatError(f"{self.path.name}: tensor {name}_scale_inv is missing")
            return decode_fp8(stored.data, scale.data, chunks, name)
        if stored.dtype == "U8":
            scale = self.tensors.get(f"{name}_scale")
            if scale is None:
                raise FormatError(f"{self.path.name}: tensor {name}_scale is missing")
            return decode_mxfp4(stored.data, scale.data, name)
        return stored.data.astype(np.float32)
