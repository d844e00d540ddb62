"""Traces where there is nothing to trace."""

import pytest

from kilotok import Engine, SamplingParams
from kilotok.errors import EngineDeadError, InvalidRequestError, UnsupportedError


def test_a_cpu_says_what_can_be_traced_and_goes_on(tmp_path):
    with Engine(device="cpu", progress=False) as engine:
        path = tmp_path / "trace.json"
        with pytest.raises(UnsupportedError, match='device="cuda", mode="persistent"'):
            engine.trace(path).__enter__()
        assert not path.exists()
        path.write_text("kept")
        with pytest.raises(UnsupportedError), engine.trace(path):
            pass
        assert path.read_text() == "kept"
        with pytest.raises(InvalidRequestError, match="ops"):
            engine.trace(path, ops=-1)
        with pytest.raises(FileNotFoundError), engine.trace(tmp_path / "absent" / "trace.json"):
            pass
        assert engine.generate("import", SamplingParams(max_tokens=2)).token_ids
    with pytest.raises(EngineDeadError), engine.trace(path):
        pass
