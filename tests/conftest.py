"""What every Python test may use: the ``tiny`` package and checkpoints it writes on demand."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# The oracle's matrices are tiny: BLAS threads only fight each other. Read when numpy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))

GOLDEN = Path(__file__).resolve().parent / "golden"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Return ``tiny.write`` with its own directory, cached: ``tiny_model("pro", seed=3)``."""
    import tiny

    written = {}

    def get(preset="pro", seed=0, teach_prompts=()):
        key = (preset, seed, tuple(map(tuple, teach_prompts)))
        if key not in written:
            path = tmp_path_factory.mktemp("tiny") / "model"
            written[key] = tiny.write(path, preset, seed, teach_prompts)
        return written[key]

    return get


@pytest.fixture(scope="session")
def golden():
    """Return the directory of committed golden vectors."""
    return GOLDEN
