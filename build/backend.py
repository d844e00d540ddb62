"""PEP 517 backend: maturin's hooks, and the nvcc wheels where no nvcc is installed.

``pip install .`` has to work on a machine without the CUDA toolkit. A static build requirement
would download 100 MB also where nvcc is installed or no kernels are wanted, so the requirement is
decided when pip asks.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from maturin import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)
from maturin import get_requires_for_build_editable as _maturin_requires_editable
from maturin import get_requires_for_build_wheel as _maturin_requires_wheel

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

# The same line as in crates/kilotok-kernels/build/toolchain.rs; a test compares them.
NVCC_REQUIREMENT = "cuda-toolkit[nvcc,cccl]==13.0.*"
SYSTEM_TOOLKIT = Path("/usr/local/cuda")


def has_nvcc(environ: Mapping[str, str]) -> bool:
    """Whether the build script of kilotok-kernels finds nvcc without the Python environment."""
    if "KILOTOK_NVCC" in environ:
        return True
    homes = [Path(environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if name in environ]
    if any((home / "bin" / "nvcc").is_file() for home in [*homes, SYSTEM_TOOLKIT]):
        return True
    return shutil.which("nvcc", path=environ.get("PATH")) is not None


def kernel_requirements(environ: Mapping[str, str]) -> list[str]:
    """Return what the kernels need on top: nothing, or the nvcc wheels."""
    if environ.get("KILOTOK_CUDA") == "0" or "KILOTOK_FATBIN_DIR" in environ:
        return []
    return [] if has_nvcc(environ) else [NVCC_REQUIREMENT]


def get_requires_for_build_wheel(config_settings: dict[str, object] | None = None) -> list[str]:
    """Return what is needed to build a wheel."""
    return [*_maturin_requires_wheel(config_settings), *kernel_requirements(os.environ)]


def get_requires_for_build_editable(config_settings: dict[str, object] | None = None) -> list[str]:
    """Return what is needed to build an editable install."""
    return [*_maturin_requires_editable(config_settings), *kernel_requirements(os.environ)]
