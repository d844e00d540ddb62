"""One engine, many threads; closing under load; the GIL."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kilotok import Engine, EngineDeadError, SamplingParams

PROMPT = "the in"
ENDLESS = SamplingParams(max_tokens=4000, ignore_eos=True)


def test_threads_get_their_own_answers(engine, settled):
    params = [
        SamplingParams(max_tokens=24, temperature=1.0, seed=i, ignore_eos=True) for i in range(32)
    ]
    expected = [engine.generate(PROMPT, p).token_ids for p in params]
    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(lambda p: engine.generate(PROMPT, p).token_ids, params))
    assert got == expected
    settled(engine)


def test_the_gil_is_free_while_the_engine_works(engine):
    beats = 0
    stop = threading.Event()

    def beat():
        nonlocal beats
        while not stop.is_set():
            beats += 1
            time.sleep(0.0005)

    thread = threading.Thread(target=beat)
    thread.start()
    engine.generate(PROMPT, SamplingParams(max_tokens=1000, ignore_eos=True))
    stop.set()
    thread.join()
    assert beats > 10


def test_closing_ends_what_is_in_flight(checkpoint):
    engine = Engine(checkpoint(), progress=False, max_batch=2)
    caught = []

    def run():
        try:
            engine.generate(PROMPT, ENDLESS)
        except EngineDeadError as error:
            caught.append(error)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    while engine.stats()["running"] < 2:
        time.sleep(0.001)
    engine.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert len(caught) == 6
    with pytest.raises(EngineDeadError, match="closed"):
        engine.generate(PROMPT)


def test_a_stream_outlives_its_engine_with_an_error(checkpoint):
    engine = Engine(checkpoint(), progress=False)
    stream = engine.stream(PROMPT, ENDLESS)
    assert next(stream).token_ids
    engine.close()
    with pytest.raises(EngineDeadError):
        for _ in stream:
            pass


def test_engines_come_and_go(checkpoint):
    """Closed or dropped, an engine leaves no thread behind."""

    def threads() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Threads:"))

    with Engine(checkpoint(), progress=False) as engine:
        expected = engine.generate([1, 2], SamplingParams(max_tokens=4)).token_ids
    before = threads()
    for i in range(6):
        engine = Engine(checkpoint(), progress=False)
        assert engine.generate([1, 2], SamplingParams(max_tokens=4)).token_ids == expected
        if i % 2:
            engine.close()
        del engine
    deadline = time.monotonic() + 10
    while threads() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threads() <= before


def test_a_forked_process_gets_an_error_and_not_a_hang(checkpoint):
    """Threads do not survive a fork: the child must be told, and must be able to exit."""
    program = """
import os, signal, sys
from kilotok import Engine, EngineDeadError, SamplingParams
engine = Engine(sys.argv[1], progress=False)
stream = engine.stream([1, 2], SamplingParams(max_tokens=1000, ignore_eos=True))
next(stream)
child = os.fork()
if child == 0:
    signal.alarm(20)
    calls = [lambda: engine.generate([1]), lambda: next(stream), engine.stats,
             lambda: Engine(sys.argv[1], progress=False)]
    for call in calls:
        try:
            call()
        except EngineDeadError as error:
            assert "fork" in str(error)
        else:
            os._exit(3)
    sys.exit(0)
_, status = os.waitpid(child, 0)
assert len(engine.generate([1], SamplingParams(max_tokens=3, ignore_eos=True)).token_ids) == 3
sys.exit(os.waitstatus_to_exitcode(status))
"""
    command = [sys.executable, "-c", program, str(checkpoint())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
