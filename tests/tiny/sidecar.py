"""Writing ``mask_embedding.pt``: torch's zip format for one BF16 vector, without torch."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np

from ._reference import reference


def _text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _int(value: int) -> bytes:
    return b"K" + bytes([value]) if value < 256 else b"J" + struct.pack("<i", value)


def _tensor(size: int) -> bytes:
    """Pickle opcodes of ``torch._utils._rebuild_tensor_v2`` over storage "0"."""
    storage = b"(" + _text("storage") + b"ctorch\nBFloat16Storage\n" + _text("0") + _text("cpu")
    storage += _int(size) + b"tQ"
    hooks = b"ccollections\nOrderedDict\n)R"
    geometry = _int(0) + _int(size) + b"\x85" + _int(1) + b"\x85" + b"\x89"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + geometry + hooks + b"tR"


def write_mask_embedding(path: Path, vector: np.ndarray, mask_token_id: int | None = None) -> None:
    """Write the sidecar; with ``mask_token_id``, as the dict form some checkpoints use."""
    body = _tensor(vector.shape[0])
    if mask_token_id is not None:
        body = (
            b"}(" + _text("embedding") + body + _text("mask_token_id") + _int(mask_token_id) + b"u"
        )
    entries = {
        "data.pkl": b"\x80\x02" + body + b".",
        "byteorder": b"little",
        "data/0": reference.formats.encode_bf16(vector).astype("<u2").tobytes(),
        "version": b"3\n",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(f"{path.stem}/{name}", (1980, 1, 1, 0, 0, 0)), data)
