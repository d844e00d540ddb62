"""One wheel serves every Python from 3.11 on, and it links nothing from CUDA."""

import importlib.metadata
import shutil
import subprocess
from pathlib import Path

import pytest

from kilotok import _core

SYSTEM_LIBRARIES = (
    "libc.so",
    "libm.so",
    "libgcc_s.so",
    "libpthread.so",
    "libdl.so",
    "librt.so",
    "ld-linux",
)


def test_the_wheel_is_abi3_for_python_3_11():
    wheel = importlib.metadata.distribution("kilotok").read_text("WHEEL")
    tags = [line.split(": ")[1] for line in wheel.splitlines() if line.startswith("Tag: ")]
    assert tags
    for tag in tags:
        assert tag.startswith("cp311-abi3-"), tag


def test_versions_agree():
    assert importlib.metadata.version("kilotok") == _core.__version__


def test_the_package_is_typed_and_licensed():
    files = {str(file) for file in importlib.metadata.files("kilotok")}
    assert "kilotok/py.typed" in files
    assert any(name.endswith("licenses/LICENSE") for name in files), sorted(files)


def test_the_extension_links_only_system_libraries():
    if shutil.which("readelf") is None:
        pytest.skip("readelf (binutils) is not installed")
    done = subprocess.run(
        ["readelf", "-d", _core.__file__], capture_output=True, text=True, check=True
    )
    needed = [
        line.split("[")[1].rstrip("]") for line in done.stdout.splitlines() if "(NEEDED)" in line
    ]
    assert needed
    strange = [name for name in needed if not name.startswith(SYSTEM_LIBRARIES)]
    assert not strange


def test_the_extension_is_stable_abi():
    assert Path(_core.__file__).name == "_core.abi3.so"
