"""What `model` may be."""

import sys
import types

import pytest
import tiny

from kilotok import Engine, InvalidRequestError, ModelFormatError, SamplingParams, loading


def test_a_directory(checkpoint):
    path = checkpoint("pro")
    assert loading.resolve(path) == path
    assert loading.resolve(str(path)) == path


def test_a_hub_id_without_the_extra_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InvalidRequestError, match=r'pip install "kilotok\[hub\]"') as caught:
        Engine("someone/some-model", progress=False)
    assert caught.value.parameter == "model"


def test_a_hub_id_is_downloaded_without_code(monkeypatch, checkpoint):
    calls = []

    def snapshot_download(repo_id, *, revision, allow_patterns):
        calls.append((repo_id, revision, allow_patterns))
        return str(checkpoint("pro"))

    hub = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with Engine("someone/some-model", revision="abc", progress=False) as engine:
        engine.generate([1, 2])
    ((repo_id, revision, patterns),) = calls
    assert (repo_id, revision) == ("someone/some-model", "abc")
    assert "*.safetensors" in patterns
    assert not any(pattern in ("*", "**") or pattern.endswith(".py") for pattern in patterns)


def test_a_failed_download_is_typed(monkeypatch):
    def snapshot_download(*_args, **_options):
        raise OSError("no route to host")

    hub = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(ModelFormatError, match="no route to host"):
        loading.resolve("someone/some-model")


@pytest.mark.parametrize("name", ["nowhere", "/not/there", "a/b/c", "../x", "https://x/y"])
def test_what_is_neither(name):
    with pytest.raises(ModelFormatError):
        loading.resolve(name)


def test_a_drafter_of_its_own(checkpoint):
    path = checkpoint("pro")
    with Engine(path, drafter=path / "dflash", progress=False) as engine:
        assert engine.info()["drafter"]["block_size"] == 8
    with Engine(path, drafter=None, progress=False) as engine:
        assert engine.info()["drafter"] is None
    with pytest.raises(ModelFormatError):
        Engine(path, drafter=path / "nowhere", progress=False)


def test_progress_is_reported_to_a_callback(checkpoint):
    seen = []
    Engine(checkpoint("pro"), progress=lambda done, total: seen.append((done, total))).close()
    assert seen
    totals = {total for _, total in seen}
    assert len(totals) == 1
    dones = [done for done, _ in seen]
    assert dones == sorted(dones)
    assert dones[-1] == totals.pop() > 0


def test_what_a_callback_raises_comes_out(checkpoint):
    def progress(_done, _total):
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        Engine(checkpoint("pro"), progress=progress)


def test_the_bar_names_bytes_rate_and_time():
    import io

    from kilotok.progress import ProgressBar

    bar = ProgressBar("loading x", io.StringIO())
    line = bar.line(500_000_000, 2_000_000_000, 1.0)
    assert line == (
        "loading x [#######.....................] 500 MB of 2.00 GB, 500 MB/s, 3 s left"
    )
    stream = io.StringIO()
    bar = ProgressBar("x", stream)
    bar(1, 10)
    bar(10, 10)
    assert stream.getvalue().endswith("\r\x1b[K")


def test_no_bar_without_a_terminal(checkpoint, capsys):
    Engine(checkpoint("pro")).close()
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_info_memory_and_stats(checkpoint):
    path, preset = checkpoint("pro"), tiny.PRESETS["pro"]
    with Engine(path, progress=False, max_batch=3, max_positions=100, kv_tokens=320) as engine:
        info = engine.info()
        assert (info["layers"], info["vocab"], info["hidden"]) == (4, preset.vocab, preset.hidden)
        assert (info["max_batch"], info["max_positions"], info["kv_tokens"]) == (3, 100, 320)
        assert info["moe"] == {"experts": preset.experts, "top_k": preset.top_k}
        stored = sum(f.stat().st_size for f in path.rglob("*.safetensors"))
        memory = engine.memory()
        assert 0.8 * stored < memory["weights"] <= 1.05 * stored
        assert memory["kv_cache"] > 0
        engine.generate([1, 2, 3], SamplingParams(max_tokens=8))
        stats = engine.stats()
        assert stats["finished"] == 1
        assert stats["tokens"] > 0
        assert (stats["running"], stats["waiting"], stats["pages_used"]) == (0, 0, 0)
