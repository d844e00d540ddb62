"""``kilotok bench --preset``: everything about it that needs no GPU."""

import json

import pytest

from kilotok import NoGpuError, _core
from kilotok.cli import bench_preset
from kilotok.errors import InvalidRequestError

PRESETS = [
    "mimo-v2.5-pro",
    "mimo-v2.5-pro-fp4-dflash",
    "mimo-v2.5",
    "mimo-v2-flash",
    "gpt-oss-20b",
    "gpt-oss-120b",
]
SYNTHETIC = ["bench", "--synthetic", "--preset"]

has_gpu = _core.gpu_report()["state"] == "ready"
without_gpu = pytest.mark.skipif(has_gpu, reason="there is a GPU")


@pytest.mark.parametrize("preset", PRESETS)
def test_memory_is_told_without_a_gpu(kilotok, preset):
    done = kilotok(*SYNTHETIC, preset, "--dry-run", "--json")
    result = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert (result["preset"], result["rank_of"], result["context"]) == (preset, 1, 1024)
    assert set(result["modes"]) == {"graph", "persistent"}
    memory = result["modes"]["graph"]["memory"]
    assert memory == result["modes"]["persistent"]["memory"]
    assert memory["weights"] > 10e9
    assert result["notes"]["weights"].startswith("random")


def test_a_rank_needs_its_share(kilotok):
    arguments = [*SYNTHETIC, "mimo-v2.5-pro", "--dry-run", "--rank-of", 8]
    text = kilotok(*arguments).stdout
    assert text.startswith("mimo-v2.5-pro, rank of 8, context 1024\nall-reduces between ranks are")
    result = json.loads(kilotok(*arguments, "--mode", "graph", "--json").stdout)
    assert list(result["modes"]) == ["graph"]
    assert 66e9 < result["modes"]["graph"]["memory"]["weights"] < 76e9


def test_help_names_the_options_of_a_preset(kilotok):
    text = kilotok("bench", "--help").stdout
    for option in ("--preset", "--synthetic", "--rank-of", "--rows", "--context", "--block"):
        assert option in text
    assert "--accept X,..." in text
    assert "--dry-run" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--synthetic", "--preset", "mimo-v3", "--dry-run"], "`preset`"),
        (["--preset", "mimo-v2.5"], "`--preset`"),
        (["--synthetic"], "`--synthetic`"),
        (["--dry-run"], "`--dry-run`"),
        ([*SYNTHETIC[1:], "gpt-oss-20b", "--mode", "graph,fast"], "`--mode`"),
        ([*SYNTHETIC[1:], "gpt-oss-20b", "--device", "cpu"], "`--device`"),
        ([*SYNTHETIC[1:], "gpt-oss-20b", "--model", "."], "`--model`"),
        ([*SYNTHETIC[1:], "gpt-oss-20b", "--rank-of", "0"], "`--rank-of`"),
        ([*SYNTHETIC[1:], "gpt-oss-20b", "--rank-of", "3"], "`rank_of`"),
        ([*SYNTHETIC[1:], "gpt-oss-20b", "--rows", "0,1"], "`--rows`"),
        ([*SYNTHETIC[1:], "gpt-oss-20b", "--rows", "9"], "`rows`"),
        ([*SYNTHETIC[1:], "gpt-oss-20b", "--context", "0"], "`--context`"),
        ([*SYNTHETIC[1:], "gpt-oss-20b", "--block", "1"], "`block`"),
        ([*SYNTHETIC[1:], "gpt-oss-20b", "--accept", "8.5"], "`accept`"),
        ([*SYNTHETIC[1:], "gpt-oss-20b", "--accept", "nan"], "`accept`"),
        ([*SYNTHETIC[1:], "gpt-oss-20b", "--rows", "1,x"], "'1,x'"),
        ([*SYNTHETIC[1:], "gpt-oss-20b", "--mode", "graph", "--trace", "t.json"], "`--trace`"),
    ],
)
def test_wrong_arguments_are_2_and_named(kilotok, arguments, said):
    done = kilotok("bench", *arguments, code=2)
    assert done.stdout == ""
    assert said in done.stderr.splitlines()[-1]


def test_an_unknown_preset_is_told_the_known_ones(kilotok):
    stderr = kilotok(*SYNTHETIC, "mimo-v3", "--dry-run", code=2).stderr
    assert all(f'"{preset}"' in stderr for preset in PRESETS)


@without_gpu
def test_without_a_gpu_it_says_what_is_missing(kilotok):
    done = kilotok(*SYNTHETIC, "gpt-oss-20b", "--json", code=1)
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("kilotok: no usable GPU: ")
    with pytest.raises(NoGpuError):
        bench_preset.measure("gpt-oss-20b", ["graph"])


def test_short_blocks_drop_usual_means_and_no_others():
    assert "modes" in bench_preset.measure("gpt-oss-20b", block=5, dry_run=True)
    with pytest.raises(InvalidRequestError, match="accept"):
        bench_preset.measure("gpt-oss-20b", block=5, accept=(6.3,), dry_run=True)


def measured(ms):
    """What the extension says of a card that copies 1 TB/s."""
    one = {"rows": 2, "ms": ms, "repeats": 9, "bytes": 5_000_000_000, "experts_per_layer": 7.5}
    forced = [{"accept": 4.0, "ms": 2 * ms}]
    rounds = {"block": 8, "draft_ms": 1.0, "verify_ms": 2.0, "device_ms": 3.5, "forced": forced}
    memory = {"weights": 12_000_000_000}
    return {
        "device": "a card",
        "copy_bytes_per_s": 1e12,
        "memory": memory,
        "passes": [one],
        "rounds": rounds | {"device_accept": 1.0, "draft_bytes": 1},
    }


def test_rates_and_tables_of_what_was_measured(monkeypatch, capsys):
    def bench(preset, rank_of, mode, rows, context, block, accept, *, trace, dry_run):
        assert (preset, rank_of, trace, dry_run) == ("gpt-oss-20b", 1, None, False)
        assert (rows, context, block, accept) == ([1, 2, 4, 8], 1024, 8, [6.3, 5.6, 4.3])
        return measured(10.0 if mode == "graph" else 8.0)

    monkeypatch.setattr(_core, "bench_synthetic", bench)
    result = bench_preset.measure("gpt-oss-20b")
    graph = result["modes"]["graph"]
    assert graph["passes"][0]["tokens_per_s"] == 200
    assert graph["passes"][0]["of_copy_rate"] == 0.5
    assert graph["rounds"]["forced"][0]["tokens_per_s"] == 200
    text = bench_preset.render(json.loads(json.dumps(result)))
    for word in ("a card, copies at 1.00 TB/s", "8.000", "62 %", "12.00 GB", "device round ms"):
        assert word in text
    assert "graph ..." in capsys.readouterr().err


def test_a_trace_is_asked_of_persistent_mode_only_and_shown(monkeypatch, tmp_path):
    asked = []

    def bench(*arguments, trace, dry_run):
        assert not dry_run
        asked.append((arguments[2], trace))
        return measured(8.0) | ({} if trace is None else {"trace": "where the time goes"})

    monkeypatch.setattr(_core, "bench_synthetic", bench)
    path = str(tmp_path / "trace.json")
    result = bench_preset.measure("gpt-oss-20b", trace=path)
    assert asked == [("graph", None), ("persistent", path)]
    assert "passes of 2 rows\nwhere the time goes" in bench_preset.render(result)
