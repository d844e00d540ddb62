"""GPU tests need a GPU and a build with kernels; elsewhere they are skipped with the reason."""

import sys
from pathlib import Path

import pytest

from kilotok import _core

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def gpu() -> dict:
    """The report of a machine that can run the embedded kernels."""
    report = _core.gpu_report()
    if report["state"] != "ready":
        pytest.skip(f"no GPU: {report['detail']}")
    if not report["kernels"]["images"]:
        pytest.skip("this build has no GPU kernels (KILOTOK_CUDA=0)")
    return report
