"""Committed GPU results are of the kernels as they are, or are named as stale."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
H200 = "benches/results/nvidia-h200"


def check(root):
    command = [sys.executable, str(ROOT / "scripts/check_results.py"), "--root", str(root)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path):
    """The sources and results, to be changed."""
    for part in ("cuda/include", "cuda/kernels", "crates/kilotok-kernels/build", "benches/results"):
        shutil.copytree(ROOT / part, tmp_path / part)
    return tmp_path


def test_stale_results_are_named_with_a_reason():
    done = check(ROOT)
    assert done.returncode == 0, done.stderr
    print(done.stdout)


def test_every_gpu_result_carries_a_hash():
    for path in ROOT.glob("benches/results/*/*.json"):
        result = json.loads(path.read_text())
        assert "cpu" in result or len(result["kernels"]["source_hash"]) == 64, path


def test_a_result_without_the_list_is_found(copy):
    (copy / H200 / "STALE.md").unlink()
    done = check(copy)
    assert done.returncode == 1
    for name in ("machine", "demo", "consumer_rate", "probe"):
        assert f"{H200}/{name}.json is older than the kernels" in done.stderr


def test_a_changed_header_makes_every_result_stale(copy):
    header = copy / "cuda/include/kilotok/ops/attention.cuh"
    header.write_text(header.read_text() + "\n// another comment\n")
    current = {path.name for path in (copy / H200).glob("*.json")}
    current -= {line.split("`")[1] for line in (copy / H200 / "STALE.md").open() if "- `" in line}
    stderr = check(copy).stderr
    assert all(f"{name} is older than the kernels" in stderr for name in current)


def test_a_list_that_names_too_much_is_found(copy):
    path = copy / H200 / "STALE.md"
    path.write_text(path.read_text() + "- `absent.json`: it is gone.\n")
    done = check(copy)
    assert done.returncode == 1
    assert "absent.json, which is not there" in done.stderr
    path.write_text("- `machine.json`:\n")
    assert "machine.json is older" in check(copy).stderr
