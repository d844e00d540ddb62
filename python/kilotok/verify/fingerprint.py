"""A name for a checkpoint that takes no time to compute."""

import hashlib
from pathlib import Path

from kilotok.errors import ModelFormatError

__all__ = ["fingerprint"]

_MOST_HEADER = 1 << 30


def fingerprint(directory: Path) -> str:
    """SHA-256 over configurations and tensor headers, as hexadecimal digits.

    It covers names, shapes, dtypes and offsets of all tensors of the target and of the drafter in
    `dflash/`, and the configurations, but no tensor data: two fine-tunes may share it.

    Raises
    ------
    ModelFormatError
        A safetensors file is cut off within its header.
    """
    digest = hashlib.sha256()
    files = [f for at in (directory, directory / "dflash") for f in sorted(at.glob("*"))]
    for file in files:
        if file.name.endswith("config.json") or file.name.endswith(".index.json"):
            content = file.read_bytes()
        elif file.suffix == ".safetensors":
            content = _header(file)
        else:
            continue
        name = file.relative_to(directory).as_posix().encode()
        for part in (name, content):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _header(file: Path) -> bytes:
    with file.open("rb") as stream:
        prefix = stream.read(8)
        length = int.from_bytes(prefix, "little")
        header = stream.read(length) if len(prefix) == 8 and length <= _MOST_HEADER else b""
    if len(header) != length or len(prefix) != 8:
        raise ModelFormatError(f"{file}: cut off within its header of {length} bytes")
    return header
