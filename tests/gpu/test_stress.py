"""Bits do not depend on which block is late: benches/gpu_stress.py, some rounds of it.

KILOTOK_STRESS_ROUNDS=100000 makes the long run of it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kilotok import Engine
from kilotok.errors import InvalidRequestError, UnsupportedError

BENCH = Path(__file__).parents[2] / "benches" / "gpu_stress.py"
ROUNDS = int(os.environ.get("KILOTOK_STRESS_ROUNDS", "2000"))

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _kernels(gpu):
    if not any(device["runs"].get("engine_traced") for device in gpu["devices"]):
        pytest.skip("this build has no traced engine kernel for this GPU")


@pytest.mark.timeout(max(300, ROUNDS // 50))
def test_delays_and_barriers_change_no_bit():
    command = [sys.executable, BENCH, "--rounds", str(ROUNDS), "--seeds", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stderr)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["different"] == []
    assert result["rounds"] >= ROUNDS
    assert {"barriers" in run["debug"] for run in result["runs"]} == {True, False}


def test_debugging_is_refused_where_it_means_nothing(monkeypatch):
    monkeypatch.setenv("KILOTOK_GPU_DEBUG", "delays=1")
    with pytest.raises(UnsupportedError, match="persistent mode"):
        Engine(device="cuda", mode="graph", progress=False)
    monkeypatch.setenv("KILOTOK_GPU_DEBUG", "delay=1")
    with pytest.raises(InvalidRequestError, match="KILOTOK_GPU_DEBUG"):
        Engine(device="cuda", progress=False)
