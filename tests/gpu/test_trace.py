"""Traces of the resident kernel: they hold together, name the causes, and change no bit."""

import itertools
import json
import time

import pytest

from kilotok import Engine, SamplingParams
from kilotok.errors import InvalidRequestError, UnsupportedError

pytestmark = pytest.mark.gpu

PROMPT = "def main():\n    parser = argparse.ArgumentParser()\n"
PARAMS = SamplingParams(max_tokens=128, ignore_eos=True)
#: Microseconds by which clocks of SMs may be off: they are fitted to a timer that ticks coarsely.
CLOCKS = 1.0


@pytest.fixture(scope="module")
def engine(gpu):
    if not any(device["runs"].get("engine_traced") for device in gpu["devices"]):
        pytest.skip("this build has no traced engine kernel for this GPU")
    with Engine(device="cuda", mode="persistent", progress=False) as engine:
        yield engine


def test_a_trace_is_a_timeline_of_every_sm_and_changes_no_bit(engine, tmp_path, gpu):
    expected = engine.generate(PROMPT, PARAMS, speculation=8)
    path = tmp_path / "trace.json"
    with engine.trace(path, ops=500) as trace:
        traced = engine.generate(PROMPT, PARAMS, speculation=8)
    assert traced.token_ids == expected.token_ids
    assert engine.generate(PROMPT, PARAMS, speculation=8).token_ids == expected.token_ids
    print(trace.summary)
    for words in ("% of the ceiling", "routing bubble", "tail", "barrier", "moe_up", "500 ops"):
        assert words in trace.summary
    events = json.loads(path.read_text())["traceEvents"]
    tracks = {event["tid"] for event in events if event["ph"] == "X"}
    assert len(tracks) == gpu["devices"][0]["num_sms"]
    ops = [event for event in events if event["ph"] == "X" and "args" in event]
    assert len(ops) == 500 * len(tracks)
    by_track = {track: [op for op in ops if op["tid"] == track] for track in tracks}
    lengths = {}
    for own in by_track.values():
        for one, two in itertools.pairwise(own):
            assert one["ts"] + one["dur"] <= two["ts"] + 1e-3
        for op in own:
            assert op["dur"] > 0
            lengths.setdefault(op["name"], []).append(op["dur"])
    assert {"moe_up", "moe_down", "linear", "router", "accept"} <= lengths.keys()
    # What the barrier promises: nobody enters an op before all have arrived at the end of the last.
    for i in range(499):
        last = max(own[i]["ts"] + own[i]["dur"] for own in by_track.values())
        first = min(own[i + 1]["ts"] for own in by_track.values())
        assert first > last - CLOCKS, i


def test_a_trace_of_a_kernel_that_comes_back_after_a_while(engine, tmp_path):
    with engine.trace(tmp_path / "trace.json") as trace:
        engine.generate(PROMPT, SamplingParams(max_tokens=2, ignore_eos=True), speculation="off")
        time.sleep(0.5)
        engine.generate(PROMPT, SamplingParams(max_tokens=2, ignore_eos=True), speculation="off")
    total = float(trace.summary.split(" us on the device")[0].split()[-1])
    assert 0 < total < 200_000


def test_wrong_numbers_and_modes_are_refused_and_nothing_breaks(engine, tmp_path):
    for ops in (0, 4097):
        with pytest.raises(InvalidRequestError, match="ops"), engine.trace(tmp_path / "a", ops=ops):
            pass
    with engine.trace(tmp_path / "b"), pytest.raises(UnsupportedError, match="running already"):
        engine.trace(tmp_path / "c").__enter__()
    assert not (tmp_path / "c").exists()
    with pytest.raises(OSError, match="missing"), engine.trace(tmp_path / "missing" / "d"):
        pass
    assert engine.generate(PROMPT, SamplingParams(max_tokens=4)).token_ids
    with (
        Engine(device="cuda", mode="graph", progress=False) as graph,
        pytest.raises(UnsupportedError, match="persistent mode"),
        graph.trace(tmp_path / "e"),
    ):
        pass
