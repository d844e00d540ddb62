"""Importing is quick and touches neither torch nor the CUDA driver."""

import json
import subprocess
import sys

PROGRAM = """
import json, sys, time
start = time.perf_counter()
import kilotok
seconds = time.perf_counter() - start
with open("/proc/self/maps") as maps:
    mapped = [line.split()[-1] for line in maps if "libcuda" in line or "libtorch" in line]
heavy = [name for name in ("torch", "transformers", "huggingface_hub") if name in sys.modules]
print(json.dumps({"seconds": seconds, "mapped": mapped, "heavy": heavy}))
"""

LIMIT_S = 0.3


def run_import() -> dict:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_import_loads_neither_torch_nor_the_driver():
    seen = run_import()
    assert seen["mapped"] == []
    assert seen["heavy"] == []


def test_import_takes_less_than_0_3_seconds():
    # The fastest of a few: the question is what the import costs, not what else the machine does.
    seconds = min(run_import()["seconds"] for _ in range(5))
    assert seconds < LIMIT_S
