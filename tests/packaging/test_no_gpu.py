"""On a machine without a GPU the GPU layer answers; it neither panics nor hides what is missing."""

import subprocess
import sys

import pytest

from kilotok import _core

STATES = {"ready", "no_driver", "driver_too_old", "no_device"}


def test_the_report_is_complete_on_any_machine():
    report = _core.gpu_report()
    assert report["state"] in STATES
    assert report["detail"]
    assert report["text"].startswith("driver: ")
    assert bool(report["devices"]) == (report["state"] == "ready")


def test_the_build_says_whether_it_has_kernels():
    kernels = _core.gpu_report()["kernels"]
    if kernels["compiler"] is None:
        assert kernels["images"] == []
        assert "KILOTOK_CUDA=0" in _core.gpu_report()["text"]
    else:
        assert {"probe"} <= {image["family"] for image in kernels["images"]}
        for image in kernels["images"]:
            assert image["bytes"] > 0
            assert image["archs"]


def test_running_the_probe_without_a_gpu_is_an_ordinary_exception():
    report = _core.gpu_report()
    if report["state"] == "ready":
        pytest.skip("this machine has a GPU")
    with pytest.raises(Exception, match=r"driver|GPU") as caught:
        _core.run_gpu_probe(0)
    assert report["detail"] in str(caught.value)


def test_asking_prints_nothing():
    program = "from kilotok import _core; _core.gpu_report()"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
