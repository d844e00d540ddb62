"""docs/qat.md, run as it is written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="quantisation-aware training needs PyTorch")
pytest.importorskip("transformers", minversion="5.0", reason="needs transformers 5")

TUTORIAL = Path(__file__).parents[2] / "docs/qat.md"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_tutorial(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```", TUTORIAL.read_text(), re.M | re.S)
    assert len(blocks) >= 9
    names: dict[str, object] = {}
    for kind, block in blocks:
        if kind == "sh":
            # The command of this interpreter, wherever its scripts are.
            script = f'set -e\nkilotok() {{ "{sys.executable}" -m kilotok "$@"; }}\n{block}'
            done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
            assert done.returncode == 0, f"{block}\n{done.stderr}"
            print(done.stdout)
        else:
            exec(compile(block, str(TUTORIAL), "exec"), names)
    losses = names["losses"]
    assert losses[-1] < losses[0]
    out = capfd.readouterr().out
    assert "exact" in out
    assert "more tokens" in out
    assert re.search(r"relative error of the rounding: 0\.[01]\d+", out)


def test_the_figures_are_those_of_the_model_card():
    """Bits per byte, from the records of the run that made the demo."""
    import json

    records = TUTORIAL.parents[1] / "training/demo/records/eval.json"
    rows = json.loads(records.read_text())["bits_per_byte"]
    bits = {name: rows[name]["all"] for name in ("bf16", "ptq_experts", "ptq", "qat")}
    text = TUTORIAL.read_text()
    for name, value in bits.items():
        row = next(line for line in text.splitlines() if f"| {value:.5f} |" in line)
        if name != "bf16":
            assert f"+{100 * (value / bits['bf16'] - 1):.2f} %" in row
    assert bits["qat"] < bits["ptq"]
    assert bits["qat"] / bits["bf16"] < 1.005
