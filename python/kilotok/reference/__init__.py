"""The readable oracle: MiMo-V2 and gpt-oss targets and DFlash drafters in plain numpy.

Each op of an engine Program is one function in `ops` under the same name, the number formats are in
`formats`, and `Mimo`, `GptOss`, `Drafter` and `speculate` run whole models from a directory.
Nothing here is fast; it exists to be read and to be compared with.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from kilotok.reference import formats, ops
from kilotok.reference.checkpoint import Checkpoint
from kilotok.reference.dflash import Drafter, Transcript, speculate
from kilotok.reference.errors import FormatError
from kilotok.reference.gpt_oss import GptOss
from kilotok.reference.mimo import Mimo
from kilotok.reference.target import Forward, Target

__all__ = [
    "Checkpoint",
    "Drafter",
    "FormatError",
    "Forward",
    "GptOss",
    "Mimo",
    "Target",
    "Transcript",
    "formats",
    "open_target",
    "ops",
    "speculate",
]


def open_target(path: str | Path, dtype: type = np.float64) -> Target:
    """Open a model directory of any family, by its ``model_type``."""
    config = json.loads((Path(path) / "config.json").read_text())
    family = GptOss if config.get("model_type") == "gpt_oss" else Mimo
    return family(path, dtype)
