"""The committed golden vectors still are what the reference answers."""

import json

import numpy as np
import pytest
from tiny._reference import reference


@pytest.mark.parametrize("name", ["flash", "pro", "v25", "gptoss"])
def test_golden_vectors(golden, name):
    root = golden / name
    data = json.loads((root / "golden.json").read_text())
    arrays = reference.checkpoint.read_safetensors(root / "golden.safetensors")
    # float32 on purpose: goldens must survive an engine's own rounding.
    target = reference.open_target(root / "model", np.float32)
    drafter = reference.Drafter(root / "model" / "dflash", target)
    for case in data["cases"]:
        forward = target.forward(case["prompt"])
        taps = forward.taps(drafter.config.target_layer_ids)
        context = drafter.extend(drafter.empty(), taps)
        for key, got in {
            "logits": forward.logits,
            "taps": taps,
            "draft_logits": drafter.block(context, case["greedy"][0]),
        }.items():
            want = arrays[f"{case['name']}.{key}"].data
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())
        run = reference.speculate(target, drafter, case["prompt"], 64)
        assert run.tokens == case["greedy"] == case["speculative"]["tokens"]
        assert [vars(r) for r in run.rounds] == case["speculative"]["rounds"]


def test_golden_files_stay_small(golden):
    names = ("flash", "pro", "v25", "gptoss", "codec.safetensors", "sampling.json")
    made = [golden / name for name in names]
    files = [f for m in made for f in (m.rglob("*") if m.is_dir() else [m]) if f.is_file()]
    assert sum(f.stat().st_size for f in files) < 2_500_000
