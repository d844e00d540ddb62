"""The build backend asks for nvcc only where it is needed and absent."""

import importlib.util
import re
import sys
import types

import pytest


@pytest.fixture
def backend(root, monkeypatch):
    """build/backend.py with a stand-in for maturin, whose hooks are not under test."""
    maturin = types.ModuleType("maturin")
    for hook in (
        "build_editable",
        "build_sdist",
        "build_wheel",
        "get_requires_for_build_editable",
        "get_requires_for_build_sdist",
        "get_requires_for_build_wheel",
        "prepare_metadata_for_build_editable",
        "prepare_metadata_for_build_wheel",
    ):
        setattr(maturin, hook, lambda *_args, **_kwargs: ["maturin-says"])
    monkeypatch.setitem(sys.modules, "maturin", maturin)
    spec = importlib.util.spec_from_file_location("backend", root / "build" / "backend.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def no_toolkit(backend, monkeypatch):
    """A machine without /usr/local/cuda, whatever this one has."""
    monkeypatch.setattr(backend, "SYSTEM_TOOLKIT", backend.SYSTEM_TOOLKIT / "absent")
    return backend


def make_nvcc(folder):
    nvcc = folder / "nvcc"
    folder.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\n")
    nvcc.chmod(0o755)


def test_nvcc_is_asked_for_on_a_bare_machine(no_toolkit):
    assert no_toolkit.kernel_requirements({"PATH": "/nowhere"}) == [no_toolkit.NVCC_REQUIREMENT]


@pytest.mark.parametrize(
    "environ",
    [{"KILOTOK_CUDA": "0"}, {"KILOTOK_FATBIN_DIR": "/images"}, {"KILOTOK_NVCC": "/x/nvcc"}],
)
def test_nvcc_is_not_asked_for_when_it_would_not_be_used(no_toolkit, environ):
    assert no_toolkit.kernel_requirements({"PATH": "/nowhere", **environ}) == []


def test_an_installed_nvcc_is_enough(no_toolkit, tmp_path):
    make_nvcc(tmp_path / "bin")
    assert no_toolkit.kernel_requirements({"PATH": str(tmp_path / "bin")}) == []
    for name in ("CUDA_HOME", "CUDA_PATH"):
        assert no_toolkit.kernel_requirements({"PATH": "/nowhere", name: str(tmp_path)}) == []


def test_the_hooks_add_to_what_maturin_asks(no_toolkit, monkeypatch):
    monkeypatch.setattr(no_toolkit, "kernel_requirements", lambda _environ: ["nvcc"])
    assert no_toolkit.get_requires_for_build_wheel() == ["maturin-says", "nvcc"]
    assert no_toolkit.get_requires_for_build_editable() == ["maturin-says", "nvcc"]


def test_backend_and_build_script_name_the_same_requirement(backend, root):
    text = (root / "crates/kilotok-kernels/build/toolchain.rs").read_text()
    found = re.search(r'REQUIREMENT: &str = "([^"]+)"', text)
    assert found.group(1) == backend.NVCC_REQUIREMENT
