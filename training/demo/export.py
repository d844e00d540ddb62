"""Stage `export`: trained masters -> a checkpoint directory, and the way back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kilotok.training.quantize import dequantize_mxfp4, quantize_mxfp4
from training.demo.fp8 import dequantize_fp8, quantize_fp8
from training.demo.layout import (
    drafter_config,
    drafter_name,
    expert_name,
    generation_config,
    target_config,
    target_name,
)
from training.demo.model_card import write_model_card
from training.demo.preset import Preset, TargetConfig
from training.demo.rounding import storage_format
from training.demo.vocabulary import MASK

LIMIT_BYTES = 32_000_000
DRAFTER_FILE = "dflash_draft_model.safetensors"


def encode_target(cfg: TargetConfig, masters: dict[str, Tensor]) -> dict[str, Tensor]:
    """Checkpoint tensors by checkpoint name, in storage dtypes."""
    out: dict[str, Tensor] = {}
    for name, master in masters.items():
        kind = storage_format(name)
        master = master.detach().float().cpu()
        layer, _, leaf = name.rpartition(".")
        if kind == "mxfp4":
            codes, scales, _ = quantize_mxfp4(master.numpy())
            for e in range(cfg.experts):
                key = expert_name(layer, e, leaf)
                out[key] = torch.from_numpy(codes[e].copy())
                out[key + "_scale"] = torch.from_numpy(scales[e].copy())
        elif kind == "fp8":
            values, scale = quantize_fp8(master, cfg.kv_heads if leaf == "qkv" else 1)
            out[target_name(name)] = values.contiguous()
            out[target_name(name) + "_scale_inv"] = scale.contiguous()
        else:
            out[target_name(name)] = master if kind == "f32" else master.bfloat16()
    return {name: out[name].contiguous() for name in sorted(out)}


def decode_target(cfg: TargetConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Working weights (BF16, router F32) from checkpoint tensors: undoes `encode_target`."""
    from training.demo.target import init_target

    out = {}
    for name in init_target(cfg, 0, MASK):
        kind = storage_format(name)
        layer, _, leaf = name.rpartition(".")
        if kind == "mxfp4":
            rows = []
            for e in range(cfg.experts):
                key = expert_name(layer, e, leaf)
                rows.append(dequantize_mxfp4(tensors[key].numpy(), tensors[key + "_scale"].numpy()))
            out[name] = torch.from_numpy(np.stack(rows)).bfloat16()
        elif kind == "fp8":
            key = target_name(name)
            chunks = cfg.kv_heads if leaf == "qkv" else 1
            out[name] = dequantize_fp8(tensors[key], tensors[key + "_scale_inv"], chunks).bfloat16()
        else:
            out[name] = tensors[target_name(name)]
    return out


def write_checkpoint(
    preset: Preset, target: dict[str, Tensor], drafter: dict[str, Tensor], out: Path
) -> None:
    """Write everything but tokenizer and model card; masters in, files out."""
    if out.exists():
        shutil.rmtree(out)
    (out / "dflash").mkdir(parents=True)
    tensors = encode_target(preset.target, target)
    total = sum(t.nbytes for t in tensors.values())
    shards: list[dict[str, Tensor]] = [{}, {}]
    filled = 0
    for name, tensor in tensors.items():
        shards[filled * 2 >= total][name] = tensor
        filled += tensor.nbytes
    where = {}
    for i, shard in enumerate(shards):
        file = f"model_pp0_ep0_shard{i}.safetensors"
        save_file(shard, str(out / file), metadata={"format": "pt"})
        where |= dict.fromkeys(shard, file)
    index = {
        "metadata": {
            "total_size": total,
            "save_format": "mxfp4",
            "tp_size": preset.target.kv_heads,
        },
        "weight_map": dict(sorted(where.items())),
    }
    _write(out / "model.safetensors.index.json", index)
    _write(out / "config.json", target_config(preset.target))
    _write(out / "generation_config.json", generation_config())
    _write(out / "dflash" / "config.json", drafter_config(preset.drafter, preset.target))
    weights = {n: t.detach().cpu().bfloat16().contiguous() for n, t in drafter.items()}
    sidecar = weights.pop("mask_embedding").clone()
    torch.save(sidecar, out / "dflash" / "mask_embedding.pt")
    named = {drafter_name(n): t for n, t in sorted(weights.items())}
    save_file(named, str(out / "dflash" / DRAFTER_FILE), metadata={"format": "pt"})


def read_checkpoint(preset: Preset, directory: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Working weights of target and drafter from a written checkpoint."""
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(index["weight_map"].values())):
        tensors |= load_file(str(directory / file))
    if set(tensors) != set(index["weight_map"]):
        raise ValueError("the shards do not hold the tensors that the index names")
    from training.demo.drafter import init_drafter

    stored = load_file(str(directory / "dflash" / DRAFTER_FILE))
    drafter = {
        n: stored[drafter_name(n)]
        for n in init_drafter(preset.drafter, preset.target.hidden, 0)
        if n != "mask_embedding"
    }
    drafter["mask_embedding"] = torch.load(
        directory / "dflash" / "mask_embedding.pt", weights_only=True
    )
    return decode_target(preset.target, tensors), drafter


def run(preset: Preset, run_dir: Path) -> None:
    """Write `run_dir/checkpoint`, check that it reads back to the evaluated weights, weigh it."""
    from training.demo.generate import load_working

    out = run_dir / "checkpoint"
    target = torch.load(run_dir / "qat.pt", map_location="cpu", weights_only=True)["masters"]
    drafter = torch.load(run_dir / "drafter.pt", map_location="cpu", weights_only=True)["masters"]
    write_checkpoint(preset, target, drafter, out)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(run_dir / file, out / file)
    if (run_dir / "eval.json").exists():
        write_model_card(preset, run_dir, out)
    back, _ = read_checkpoint(preset, out)
    expected = load_working(preset.target, run_dir, "qat", torch.device("cpu"))
    wrong = [n for n in expected if not torch.equal(back[n].float(), expected[n].float())]
    if wrong:
        raise ValueError(f"the written checkpoint differs from the trained weights in {wrong}")
    sizes = {
        str(p.relative_to(out)): p.stat().st_size for p in sorted(out.rglob("*")) if p.is_file()
    }
    total = sum(sizes.values())
    print(f"export: {json.dumps(sizes)}; {total} bytes of {LIMIT_BYTES}", flush=True)
    if total > LIMIT_BYTES:
        raise ValueError(f"checkpoint is {total} bytes, expected at most {LIMIT_BYTES}")


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
