"""Stages `pack` and `unpack`: a run's results as a few files of bounded size."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

PART_BYTES = 14 * 1024 * 1024
_MAX_PARTS = 6
_RECORDS = ("data", "trunk", "bf16", "qat", "generate", "drafter", "eval")


def pack(run_dir: Path, out: Path) -> None:
    """Tar the checkpoint and the records, split into `demo.tar.N` under `out`.

    Raises
    ------
    ValueError
        If more than six parts would be needed.
    """
    out.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        if (run_dir / "checkpoint").exists():
            tar.add(run_dir / "checkpoint", "checkpoint")
        for name in _RECORDS:
            if (run_dir / f"{name}.json").exists():
                tar.add(run_dir / f"{name}.json", f"records/{name}.json")
    data = buffer.getvalue()
    parts = [data[i : i + PART_BYTES] for i in range(0, len(data), PART_BYTES)]
    if len(parts) > _MAX_PARTS:
        raise ValueError(
            f"{len(data)} bytes need {len(parts)} parts, expected at most {_MAX_PARTS}"
        )
    for i, part in enumerate(parts):
        (out / f"demo.tar.{i}").write_bytes(part)
    print(f"pack: {len(data)} bytes in {len(parts)} files under {out}", flush=True)


def unpack(source: Path, out: Path) -> None:
    """Join `demo.tar.N` of `source` and extract into `out`."""
    parts = sorted(source.glob("demo.tar.*"), key=lambda p: int(p.suffix[1:]))
    if not parts:
        raise FileNotFoundError(f"{source} holds no demo.tar.N files")
    out.mkdir(parents=True, exist_ok=True)
    data = io.BytesIO(b"".join(p.read_bytes() for p in parts))
    with tarfile.open(fileobj=data) as tar:
        tar.extractall(out, filter="data")
    print(f"unpack: {sorted(p.name for p in out.iterdir())} in {out}", flush=True)
