"""Files on the way to a converted checkpoint: resumable, and visible only when complete.

Beside the destination lies ``NAME.converting``: `checkpoint/` becomes the destination by one
rename at the end; `journal/` holds the plan that it belongs to and, for every finished file, its
checksum and what rounding did. A file without a journal entry is written again from its start.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kilotok.errors import Error
from kilotok.training.convert.plan import Shard
from kilotok.training.quantize import Distortion

__all__ = ["Job"]


class Job:
    """The folder of one conversion, locked while it runs.

    Parameters
    ----------
    destination : Path
        Where the checkpoint will be.
    plan : dict
        What is converted and how, as JSON: only a job of the same plan is continued.
    restart : bool
        Throw away what another conversion left, instead of refusing.

    Raises
    ------
    Error
        The destination exists, the folder belongs to another plan or is in use.
    """

    def __init__(self, destination: Path, plan: dict[str, Any], *, restart: bool) -> None:
        self.destination = destination
        self.folder = destination.with_name(destination.name + ".converting")
        self._checkpoint = self.folder / "checkpoint"
        self._journal = self.folder / "journal"
        self._plan = plan
        self._restart = restart
        self._sums: dict[str, str] = {}

    def __enter__(self) -> Self:
        if self.destination.exists():
            raise Error(f"{self.destination} exists already; nothing was changed")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise Error(f"another conversion to {self.destination} is running") from None
        try:
            self._adopt()
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._lock)

    def _adopt(self) -> None:
        """Take over what an interrupted run of the same plan left."""
        record = self._journal / "plan.json"
        if self._restart:
            for folder in (self._checkpoint, self._journal):
                shutil.rmtree(folder, ignore_errors=True)
        if record.is_file() and json.loads(record.read_text()) != self._plan:
            raise Error(
                f"{self.folder} belongs to a conversion of other files or with other options; "
                "delete it, or start anew with --restart"
            )
        self._checkpoint.mkdir(exist_ok=True)
        self._journal.mkdir(exist_ok=True)
        _replace(record, json.dumps(self._plan).encode())

    def done(self, shard: Shard) -> dict[str, Distortion] | None:
        """What rounding did in a finished file; None where it is yet to be written."""
        try:
            entry = json.loads((self._journal / f"{shard.name}.json").read_text())
            size = (self._checkpoint / shard.name).stat().st_size
        except (OSError, ValueError):
            return None
        if size != entry["bytes"]:
            return None
        self._sums[shard.name] = entry["sha256"]
        return {name: Distortion(*sums) for name, sums in entry["matrices"].items()}

    def check_room(self, num_bytes: int) -> None:
        """Refuse to start what cannot be finished.

        Raises
        ------
        Error
            Fewer than `num_bytes` are free.
        """
        free = shutil.disk_usage(self.folder).free
        if free < num_bytes:
            raise Error(
                f"{self.destination} needs {num_bytes:,} more bytes, but only {free:,} are free on "
                "that disk; nothing was converted"
            )

    def write_shard(self, shard: Shard, advance: Callable[[int], None]) -> dict[str, Distortion]:
        """Write one file; `advance` is told of stored bytes that were read."""
        matrices: dict[str, Distortion] = {}

        def contents() -> Iterable[bytes]:
            yield shard.header
            for item in shard.items:
                for piece in item.produce():
                    if isinstance(piece, Distortion):
                        matrices[item.matrix or ""] = piece
                    else:
                        yield piece
                advance(item.read_bytes)

        checksum, size = self._write(shard.name, contents())
        if size != shard.num_bytes:
            raise Error(f"{shard.name}: {size} bytes were written, expected {shard.num_bytes}")
        sums = {
            name: [d.squared_error, d.squared_value, d.largest_error, d.saturated, d.elements]
            for name, d in matrices.items()
        }
        entry = {"bytes": size, "sha256": checksum, "matrices": sums}
        _replace(self._journal / f"{shard.name}.json", json.dumps(entry).encode())
        return matrices

    def write_json(self, name: str, contents: dict[str, Any]) -> None:
        """Write a small file."""
        self._write(name, [(json.dumps(contents, indent=2) + "\n").encode()])

    def copy(self, directory: Path, inside: Path) -> None:
        """Copy a file from a directory, to the same place."""
        with (directory / inside).open("rb") as file:
            self._write(str(inside), iter(lambda: file.read(16 << 20), b""))

    def finish(self) -> None:
        """Write ``SHA256SUMS`` and put the checkpoint in its place."""
        lines = [f"{checksum}  {name}\n" for name, checksum in sorted(self._sums.items())]
        _replace(self._checkpoint / "SHA256SUMS", "".join(lines).encode())
        self._checkpoint.rename(self.destination)
        _sync(self.destination.parent)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, name: str, pieces: Iterable[bytes]) -> tuple[str, int]:
        path = self._checkpoint / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        checksum, size = hashlib.sha256(), 0
        with part.open("wb") as file:
            for piece in pieces:
                file.write(piece)
                checksum.update(piece)
                size += len(piece)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
        _sync(path.parent)
        self._sums[name] = checksum.hexdigest()
        return self._sums[name], size


def _replace(path: Path, contents: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(contents)
    part.rename(path)


def _sync(folder: Path) -> None:
    """Make renames in a folder last."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
