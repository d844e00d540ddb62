"""The `kilotok` command as its users run it: in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tiny


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A tiny checkpoint with a tokenizer, a chat template and a drafter."""
    path = tmp_path_factory.mktemp("model")
    tiny.write(path, "v26", seed=0)
    return path


@pytest.fixture(scope="session")
def ids_model(tmp_path_factory) -> Path:
    """A tiny checkpoint without a tokenizer."""
    path = tmp_path_factory.mktemp("ids-model")
    tiny.write(path, "pro", seed=0)
    return path


@pytest.fixture(scope="session")
def kilotok() -> Callable[..., subprocess.CompletedProcess]:
    """`kilotok(*arguments, code=0, input="")` runs the command and checks its exit code."""

    def run(*arguments, code=0, input=""):
        done = subprocess.run(
            [sys.executable, "-m", "kilotok", *map(str, arguments)],
            capture_output=True,
            input=input,
            encoding="utf-8",
            errors="replace",
            timeout=120,
            env={**os.environ, "PYTHONUTF8": "1"},
        )
        assert done.returncode == code, f"exit {done.returncode}: {done.stderr}"
        assert "Traceback" not in done.stderr
        assert "panicked" not in done.stderr
        return done

    return run
