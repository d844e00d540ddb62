"""A kernel that reads where nothing is: the engine dies at once, says so, and answers no more.

Each test runs in a process of its own: a failed kernel takes the CUDA context of its process along.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

SCRIPT = """
import os
import sys
import time

from kilotok import Engine, SamplingParams
from kilotok.errors import EngineDeadError, NoGpuError
from kilotok.loading import demo_checkpoint

mode, speculation = sys.argv[1], sys.argv[2]
speculation = speculation if speculation == "off" else int(speculation)
demo = str(demo_checkpoint())
params = SamplingParams(max_tokens=500, ignore_eos=True)


def fails(engine, within):
    started = time.perf_counter()
    try:
        engine.generate("import argparse", params, speculation=speculation)
    except EngineDeadError as error:
        seconds = time.perf_counter() - started
        assert seconds < within, seconds
        return str(error)
    raise AssertionError("an engine whose kernel failed gave an answer")


engine = Engine(demo, device="cuda", mode=mode, progress=False)
print("first:", fails(engine, 1.0))
# It refuses work afterwards, at once.
print("again:", fails(engine, 0.1))
del os.environ["KILOTOK_GPU_FAULT"]
engine.close()
try:
    other = Engine(demo, device="cuda", mode=mode, progress=False)
    print("answer:", other.generate("import argparse", SamplingParams(max_tokens=4)).text)
except NoGpuError as error:
    assert "restart the process" in str(error), error
    print("refused:", error)
# Whoever asks for no device gets one that works.
with Engine(demo, progress=False) as auto:
    assert len(auto.generate("import argparse", SamplingParams(max_tokens=4)).token_ids) > 0
print("done")
"""


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["graph", "persistent"])
@pytest.mark.parametrize("speculation", ["off", "8"])
@pytest.mark.parametrize("command", [1, 7])
def test_an_illegal_access_is_the_end_of_the_engine_and_told_within_a_second(
    gpu, mode, speculation, command
):
    if not any(device["runs"].get("engine") for device in gpu["devices"]):
        pytest.skip("this build has no engine kernels for this GPU")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), mode, speculation],
        env={**os.environ, "KILOTOK_GPU_FAULT": f"illegal-access@{command}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "done" in done.stdout, said
    assert "refused:" in done.stdout or "answer:" in done.stdout, said
