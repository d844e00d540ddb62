"""Source files stay small enough to read."""

import shutil
import subprocess

import pytest

LIMIT_LINES = 800
SUFFIXES = {".rs", ".py", ".pyi", ".cu", ".cuh", ".h", ".sh", ".md", ".toml"}


def test_no_source_file_is_longer_than_800_lines(root):
    if shutil.which("git") is None or not (root / ".git").exists():
        pytest.skip("not a git checkout")
    done = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True)
    long = {}
    for name in done.stdout.splitlines():
        path = root / name
        if path.suffix in SUFFIXES and path.is_file():
            lines = path.read_text().count("\n")
            if lines > LIMIT_LINES:
                long[name] = lines
    assert not long
