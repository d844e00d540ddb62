"""`kilotok plan`: table, JSON, exit codes, errors; and its predictions against measurements."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest

from kilotok import _core
from kilotok.cli import bench_preset

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benches" / "results" / "nvidia-h200"
DEMO = ROOT / "python" / "kilotok" / "demo" / "checkpoint"
PRO = "mimo-v2.5-pro-fp4-dflash"
#: Hashes of the kernels that the constants belong to; other kernels need other constants.
KERNELS = {
    "08855c7df0acd3ca26bdb0d4f16dededd70979ef3afbcba363bcf10805cd85c7",
    "5ea69b1cd43f93173dbff75b422235d44b57d7f425d8725345210c61299e6c2b",
}


def results(name):
    """A committed result, as long as it is of the kernels that the constants belong to."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        pytest.skip(f"{path.name} is not committed")
    record = json.loads(path.read_text())
    if record["kernels"]["source_hash"] not in KERNELS:
        pytest.skip(f"{path.name} is of other kernels: run benches/plan_fit.py, update constants")
    return record["result"]


def off_by(predicted, measured):
    """Relative error."""
    return predicted / measured - 1


def test_table(kilotok):
    text = kilotok("plan", PRO, "--tp", 8, "--context", 1024, "--tau", 6.3, "--price", 4).stdout
    assert text.startswith(f"{PRO} (mimo_v2) on 8 x H200, context 1024: fits\n")
    for word in ("experts", "kv_cache", "drafter", "exchange", "left", "break-even tau", "dollars"):
        assert word in text
    for source in ("machine.json 2026-11-24", "attention.json 2026-11-24"):
        assert source in text
    assert "drafts, tau 6.3" in text
    assert "throughput" in text
    assert "times the cost per token" in text


def test_json(kilotok):
    arguments = ("--tp", 8, "--context", 1024, "--tau", 6.3, "--price", 4, "--json")
    plan = json.loads(kilotok("plan", PRO, *arguments).stdout)
    assert plan["fits"] is True
    assert sum(part["bytes"] for part in plan["memory"]["components"]) == plan["memory"]["needed"]
    plain, round_ = plan["plain"]["times"], plan["round"]["times"]
    for times in (plain, round_):
        assert times["floor_ms"] < times["persistent_ms"]
    ratio = round_["persistent_ms"] / plain["persistent_ms"]
    assert plan["round"]["break_even"]["persistent"] == pytest.approx(ratio)
    drafts = [c for c in plan["economy"]["choices"] if c["mode"] == "drafts"]
    assert {c["model"] for c in drafts} == {"floor", "persistent", "graph"}
    for choice in drafts:
        assert choice["gpu_seconds"] == pytest.approx(8e6 / choice["tokens_per_s"])
        assert choice["dollars"] == pytest.approx(choice["gpu_seconds"] * 4 / 3600)
    assert all((ROOT / constant["source"]).is_file() for constant in plan["constants"])


def test_the_demo_is_the_default(kilotok):
    plan = json.loads(kilotok("plan", "--json").stdout)
    assert (plan["family"], plan["context"]) == ("mimo_v2", 4096)
    assert plan["round"]["block"] == 8


def test_only_configurations_are_read(kilotok, tmp_path):
    shutil.copy(DEMO / "config.json", tmp_path)
    for config in (tmp_path, tmp_path / "config.json"):
        plan = json.loads(kilotok("plan", config, "--context", 64, "--json").stdout)
        assert plan["round"] is None
        assert plan["block"] is None
    (tmp_path / "dflash").mkdir()
    shutil.copy(DEMO / "dflash/config.json", tmp_path / "dflash")
    plan = json.loads(kilotok("plan", tmp_path, "--context", 64, "--json").stdout)
    assert plan["round"] is not None
    plan = kilotok("plan", tmp_path, "--context", 64, "--drafter", "none", "--json").stdout
    assert json.loads(plan)["round"] is None


def test_what_does_not_fit_is_3(kilotok):
    done = kilotok("plan", PRO, code=3)
    assert "DOES NOT FIT; it does from --tp 8 on" in done.stdout
    assert "missing" in done.stdout
    plan = json.loads(kilotok("plan", PRO, "--json", code=3).stdout)
    assert (plan["fits"], plan["fits_from_tp"], plan["memory"]["left"]) == (False, 8, None)


@pytest.mark.parametrize(
    ("arguments", "parameter"),
    [
        (["no-such-model"], "config"),
        ([PRO, "--gpu", "abacus"], "gpu"),
        ([PRO, "--tp", "7"], "tp"),
        ([PRO, "--tp", "0"], "tp"),
        ([PRO, "--tp", "8", "--context", "0"], "context"),
        ([PRO, "--tp", "8", "--block", "99"], "block"),
        ([PRO, "--tp", "8", "--tau", "99"], "tau"),
        ([PRO, "--tp", "8", "--price", "-1"], "price"),
        ([PRO, "--tp", "8", "--experts", "int3"], "experts"),
        ([PRO, "--tp", "8", "--allreduce-us", "nan"], "allreduce_us"),
        (["mimo-v2-flash", "--tau", "4"], "tau"),
    ],
)
def test_an_argument_out_of_range_is_2_and_named(kilotok, arguments, parameter):
    done = kilotok("plan", *arguments, code=2)
    assert done.stdout == ""
    assert f"`{parameter}`" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_number_that_is_none_is_2(kilotok):
    assert "usage: kilotok" in kilotok("plan", PRO, "--tp", "many", code=2).stderr
    assert kilotok("plan", PRO, "--tp", "-1", code=2).stdout == ""


def test_a_configuration_that_is_not_understood_is_1_and_names_the_key(kilotok, model, tmp_path):
    config = json.loads((model / "config.json").read_text())
    for key, value in (("head_dim", "wide"), ("rope_scaling", {"rope_type": "spiral"})):
        (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
        done = kilotok("plan", tmp_path, code=1)
        assert done.stdout == ""
        assert "config.json" in done.stderr
        assert key in done.stderr
    (tmp_path / "empty").mkdir()
    assert "config.json" in kilotok("plan", tmp_path / "empty", code=1).stderr


def test_a_shape_that_the_engine_has_no_op_for_is_1_and_named(kilotok, model):
    done = kilotok("plan", model, "--context", 64, code=1)
    assert "layers.0.attention" in done.stderr
    assert "multiples of 8" in done.stderr


def test_bench_prints_predictions_without_a_gpu(kilotok):
    arguments = ("--preset", PRO, "--synthetic", "--rank-of", 8, "--dry-run", "--rows", "1,8")
    text = kilotok("bench", *arguments).stdout
    assert "predicted ms" in text
    assert "round, accept 6.3" in text
    result = json.loads(kilotok("bench", *arguments, "--json").stdout)
    assert [one["rows"] for one in result["modes"]["graph"]["predicted"]["passes"]] == [1, 8]


def test_bench_prints_measured_beside_predicted():
    predicted = {
        "gpu": "h200",
        "passes": [{"rows": 1, "floor_ms": 1.5, "ms": 5.5}],
        "rounds": [{"accept": 6.3, "floor_ms": 3.0, "ms": 9.0}],
    }
    entry = {
        "predicted": predicted,
        "passes": [{"rows": 1, "ms": 5.0}],
        "rounds": {"forced": [{"accept": 6.3, "ms": 10.0}]},
    }
    *_, one, round_ = bench_preset._render_predicted({"modes": {"graph": entry}})[1].splitlines()
    assert one.split()[-5:] == ["1.500", "5.500", "5.000", "+10.0", "%"]
    assert round_.split()[-5:] == ["3.000", "9.000", "10.000", "-10.0", "%"]


@pytest.mark.parametrize(
    ("device", "card"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("NVIDIA L4", None),
    ],
)
def test_cards_by_their_drivers_names(device, card):
    assert bench_preset._card(device) == card


def published():
    """Whole passes and a round of a MiMo-V2.5-Pro rank in docs/persistent_kernel.md, ms."""
    page = (ROOT / "docs" / "persistent_kernel.md").read_text()
    found = {}
    for name, pattern in (
        ("1", r"^\| 1 row, [^|]*GB \| ([0-9.]+) [^|]*\| ([0-9.]+) \|$"),
        ("8", r"^\| 8 rows, 51 experts a layer, [^|]*\| ([0-9.]+) [^|]*\| ([0-9.]+) \|$"),
        ("round", r"^\| a round of draft, verify and commit \| ([0-9.]+) \| ([0-9.]+) \|$"),
    ):
        rows = re.findall(pattern, page, re.MULTILINE)
        assert len(rows) == 1, f"docs/persistent_kernel.md: no row of whole models for {name}"
        found[name] = dict(zip(("persistent", "graph"), map(float, rows[0]), strict=True))
    return found


@pytest.mark.parametrize("mode", ["persistent", "graph"])
def test_a_preset_takes_what_is_predicted(mode):
    measured = published()
    shape = (PRO, 8, [1, 8], 1024, 8, [6.3])
    # With the experts that were touched, and with the number that is expected of any model.
    for experts in ([8.0, 51.0], None):
        times = _core.plan_bench(*shape, experts=experts)
        for rows, one in zip(("1", "8"), times["passes"], strict=True):
            assert abs(off_by(one[mode], measured[rows][mode])) < 0.1, (rows, experts)
        assert abs(off_by(times["rounds"][0][mode], measured["round"][mode])) < 0.1, experts


def test_presets_that_were_measured_take_what_is_predicted():
    for result in results("presets")["results"]:
        for mode, entry in result.get("modes", {}).items():
            shape = (result["preset"], result["rank_of"])
            rows = [one["rows"] for one in entry["passes"]]
            experts = [one["experts_per_layer"] for one in entry["passes"]]
            times = _core.plan_bench(*shape, rows, result["context"], 8, [], experts=experts)
            for one, found in zip(times["passes"], entry["passes"], strict=True):
                assert abs(off_by(one[mode], found["ms"])) < 0.1, (shape, mode, found)


def test_the_demo_was_not_fitted_and_is_near():
    # 512 tokens after a short prompt, through the whole engine.
    plan = json.loads(_core.plan(str(DEMO), context=300)["json"])
    for request in results("demo")["requests"]:
        if request["device"] != "cuda" or request["speculation"] == "auto":
            continue
        times = (plan["round"] if request["speculation"] == 8 else plan["plain"])["times"]
        ms = 1e3 * request["tau"] / request["tokens_per_s"]
        assert abs(off_by(times[f"{request['mode']}_ms"], ms)) < 0.15, request


def test_constants_are_those_of_the_committed_measurements():
    pytest.importorskip("numpy")
    for name in ("machine", "attention"):
        results(name)
    spec = importlib.util.spec_from_file_location("plan_fit", ROOT / "benches/plan_fit.py")
    fit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fit)
    text = (ROOT / "crates/kilotok/src/plan/constants.rs").read_text()
    fitted = {**fit.layers(), **fit.attention(), **fit.cold()}
    assert len(fitted) == 10
    for name, value in fitted.items():
        (held,) = re.findall(rf'const {name}: Constant =\s*\w+\("[^"]*", ([0-9.]+)', text)
        assert float(held) == pytest.approx(value, rel=0.02), name
