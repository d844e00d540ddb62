"""Ctrl-C stops a generation quickly, in a real process with a real signal."""

import os
import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import signal, sys
from kilotok import Engine, SamplingParams
# A shell starts background jobs, a test run among them, with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
engine = Engine(sys.argv[1], progress=False)
params = SamplingParams(max_tokens=4000, ignore_eos=True, n=int(sys.argv[3]))
def endless():
    while True:
        if sys.argv[2] == "generate":
            engine.generate([1, 2, 3], params)
        else:
            for piece in engine.stream([1, 2, 3], params):
                pass
print("ready", flush=True)
try:
    endless()
except KeyboardInterrupt:
    import time
    deadline = time.monotonic() + 5
    while any(engine.stats()[k] for k in ("running", "waiting")):
        assert time.monotonic() < deadline, engine.stats()
        time.sleep(0.001)
    print("stopped", engine.generate([1], SamplingParams(max_tokens=2)).finish_reason, flush=True)
"""


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("call", ["generate", "stream"])
def test_ctrl_c_stops_and_the_engine_lives_on(checkpoint, call, n):
    command = [sys.executable, "-c", PROGRAM, str(checkpoint()), call, str(n)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.3)
        start = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        assert process.stdout.readline().startswith("stopped")
        assert time.monotonic() - start < 2
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def test_exit_while_working_is_clean(checkpoint):
    """A process may end in the middle of a stream, without a crash or a hang."""
    program = """
import sys
from kilotok import Engine, SamplingParams
engine = Engine(sys.argv[1], progress=False)
stream = engine.stream([1, 2, 3], SamplingParams(max_tokens=4000, ignore_eos=True))
next(stream)
"""
    command = [sys.executable, "-c", program, str(checkpoint())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
