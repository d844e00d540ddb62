"""docs/drafters.md runs as written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the training code needs PyTorch")
pytest.importorskip("safetensors", reason="the training code needs safetensors")

PAGE = Path(__file__).parents[2] / "docs/drafters.md"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tutorial_runs_as_written(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, command in (("kilotok", "-m kilotok"), ("python", "")):
        tool = tools / name
        tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" {command} "$@"\n')
        tool.chmod(0o755)
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5
    env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    for number, block in enumerate(blocks):
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", block],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, f"block {number}:\n{done.stdout}\n{done.stderr[-2000:]}"
    evaluation = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert set(evaluation["categories"]) == {"code", "prose"}
    assert (tmp_path / "run/dflash/mask_embedding.pt").exists()
    assert not (tmp_path / "fresh/dflash/mask_embedding.pt").exists()
    assert json.loads((tmp_path / "fresh/dflash/config.json").read_text())["layer_types"] == [
        "full_attention"
    ]
