"""Sharded quantisation-aware training on two CPU processes against one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="quantisation-aware training needs PyTorch")
pytest.importorskip("transformers", minversion="5.0", reason="needs transformers 5")

from kilotok.reference import Checkpoint  # noqa: E402
from kilotok.training.qat import expert_weights, prepare_qat  # noqa: E402
from kilotok.training.quantize import dequantize_mxfp4  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))

WORKER = Path(__file__).with_name("fsdp_worker.py")


def train_alone(family: str):
    """What the two processes do, in one: each sees half of a batch, gradients are averaged."""
    import fsdp_worker
    import moe_models

    model = prepare_qat(moe_models.make(family)).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(fsdp_worker.STEPS - 1):
        optimizer.zero_grad()
        for half in range(2):
            ids = moe_models.batch(step)[half::2]
            (model(ids, labels=ids).loss / 2).backward()
        optimizer.step()
    return model


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_two_processes(tmp_path, family, precision):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    done = subprocess.run(
        [*command, WORKER, family, precision, tmp_path],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result = torch.load(tmp_path / "result.pt", weights_only=True)
    exported, state = result["exported"], result["state"]
    alone = train_alone(family)
    if precision == "f32":
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-5)
    saved = Checkpoint.open(tmp_path / "checkpoint")
    assert set(state) == set(alone.state_dict())
    seen = 0
    for weight in expert_weights(alone):
        used = result["used"][weight.name]
        assert used.dtype == (torch.float32 if precision == "f32" else torch.bfloat16)
        for name, matrix in weight.matrices(used):
            codes = [exported[f"{name}.weight{end}"].numpy() for end in ("", "_scale")]
            back = dequantize_mxfp4(*codes)
            np.testing.assert_array_equal(matrix.float().numpy().view("u4"), back.view("u4"))
            for end, code in zip(("", "_scale"), codes, strict=True):
                np.testing.assert_array_equal(saved.tensors[f"{name}.weight{end}"].data, code)
            seen += 1
    assert 2 * seen == len(exported)
