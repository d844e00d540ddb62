"""Writing safetensors files, sharded or not, byte-reproducibly."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from .weights import Stored


def write_safetensors(path: Path, tensors: dict[str, Stored]) -> None:
    """Write one safetensors file; tensors are laid out in the given order."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.data.nbytes
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.data.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.data.tobytes())


def write_model(path: Path, stem: str, tensors: dict[str, Stored], shards: int) -> None:
    """Write ``stem.safetensors``, or ``shards`` files and an index."""
    if shards == 1:
        write_safetensors(path / f"{stem}.safetensors", tensors)
        return
    names = list(tensors)
    weight_map: dict[str, str] = {}
    for i in range(shards):
        part = {
            n: tensors[n] for n in names[i * len(names) // shards : (i + 1) * len(names) // shards]
        }
        file = f"{stem}-{i + 1:05d}-of-{shards:05d}.safetensors"
        write_safetensors(path / file, part)
        weight_map |= dict.fromkeys(part, file)
    total = sum(t.data.nbytes for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(path / f"{stem}.safetensors.index.json", index)


def write_json(path: Path, value: object, indent: int | None = 2) -> None:
    """Write JSON with a final newline."""
    separators = None if indent else (",", ":")
    path.write_text(json.dumps(value, indent=indent, separators=separators) + "\n")
