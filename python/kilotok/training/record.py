"""What a trainer writes beside a drafter, for the doctor to compare with."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

__all__ = ["RECORD", "read_record", "target_digest"]

#: What the trainer knew: target digest and acceptance. Readers of the formats ignore it.
RECORD = "kilotok_training.json"


def target_digest(directory: Path) -> str:
    """What ties a drafter to a target: sha256 of sizes and samples of every weight file."""
    digest = hashlib.sha256()
    for file in sorted(directory.glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{size} ".encode())
        with file.open("rb") as data:
            # A stride through the file: new weights differ everywhere, so a few bytes tell.
            for start in range(0, size, max(size // 16, 1)):
                data.seek(start)
                digest.update(data.read(4096))
    return digest.hexdigest()


def read_record(drafter: Path) -> dict[str, Any]:
    """The trainer's record beside a drafter; empty if there is none."""
    path = drafter / RECORD
    return json.loads(path.read_text()) if path.is_file() else {}
