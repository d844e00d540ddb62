"""Device code on the machines that can run it here: the emulator, and a GPU where there is one."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from machine import Emulator, Gpu, Machine
from program import ROOT


@pytest.fixture(scope="session")
def emulator_library(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The ops compiled for this CPU (cuda/emulator/README.md)."""
    compiler = os.environ.get("CXX", "g++")
    if platform.machine() != "x86_64" or shutil.which(compiler) is None:
        pytest.skip("the emulator needs x86-64 and a C++ compiler")
    library = tmp_path_factory.mktemp("emulator") / "ops.so"
    emulator = ROOT / "cuda/emulator"
    command = [compiler, "-std=c++20", "-O1", "-fno-strict-aliasing", "-shared", "-fPIC"]
    command += ["-Wall", "-Werror", "-Wno-unknown-pragmas"]
    command += ["-I", str(emulator), "-I", str(ROOT / "cuda/include")]
    command += ["-include", str(emulator / "device.h"), "-o", str(library)]
    command += [str(emulator / "fibers.cpp"), str(emulator / "ops.cpp")]
    subprocess.run(command, check=True)
    return str(library)


@pytest.fixture(scope="session")
def gpu_blocks() -> int:
    """Blocks that fill the GPU; tests that need one are skipped where there is none."""
    from kilotok import _core

    report = _core.gpu_report()
    if report["state"] != "ready":
        pytest.skip(f"no GPU: {report['detail']}")
    if "ops_check" not in {image["family"] for image in report["kernels"]["images"]}:
        pytest.skip("this build has no GPU kernels (KILOTOK_CUDA=0)")
    return report["devices"][0]["num_sms"]


@pytest.fixture(params=["emulator", pytest.param("gpu", marks=pytest.mark.gpu)])
def machine(request: pytest.FixtureRequest) -> Machine:
    """A machine of several blocks."""
    if request.param == "emulator":
        return Emulator(request.getfixturevalue("emulator_library"), 5)
    return Gpu(request.getfixturevalue("gpu_blocks"))


@pytest.fixture
def rng() -> np.random.Generator:
    """Return fresh random numbers; the seed is printed."""
    seed = int.from_bytes(np.random.default_rng().bytes(4), "little")
    print(f"seed {seed}")
    return np.random.default_rng(seed)
