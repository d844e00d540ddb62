"""The source distribution holds everything that a build needs."""

import importlib.util
import shutil
import subprocess
import sys
import tarfile

import pytest


def test_the_sdist_can_build_kernels_and_wheel(root, tmp_path):
    if shutil.which("cargo") is None:
        pytest.skip("cargo is not installed")
    if importlib.util.find_spec("maturin") is None:
        pytest.skip("maturin is not installed")
    command = [sys.executable, "-m", "maturin", "sdist", "--out", str(tmp_path)]
    subprocess.run(command, cwd=root, capture_output=True, check=True)
    (archive,) = tmp_path.glob("kilotok-*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.split("/", 1)[1] for name in tar.getnames() if "/" in name}
    tracked = [
        "cuda/kernels/probe.cu",
        "cuda/include/kilotok/abi.h",
        "build/backend.py",
        "Cargo.lock",
    ]
    tracked += [
        "LICENSE",
        "README.md",
        "crates/kilotok-kernels/build/main.rs",
        "python/kilotok/py.typed",
    ]
    absent = [name for name in tracked if name not in names]
    assert not absent
    kernels = {str(path.relative_to(root)) for path in (root / "cuda").rglob("*") if path.is_file()}
    assert kernels <= names
