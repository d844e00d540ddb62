"""Master weights -> the weights the model multiplies by, in the checkpoint's formats.

Rounding happens outside the differentiated graph: the loss is taken at the rounded weights and
its gradient is applied to the masters unchanged. That is the straight-through estimator.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kilotok.training.qat import round_mxfp4
from training.demo.fp8 import round_fp8
from training.demo.preset import TargetConfig

EXPERTS = ("experts_gate", "experts_up", "experts_down")


def storage_format(name: str) -> str:
    """`mxfp4`, `fp8`, `f32` or `bf16`: how the checkpoint stores a target weight."""
    leaf = name.rpartition(".")[2]
    if leaf in EXPERTS:
        return "mxfp4"
    if leaf in ("qkv", "gate", "up", "down"):
        return "fp8"
    return "f32" if leaf in ("router", "bias") else "bf16"


@torch.no_grad()
def working_weight(cfg: TargetConfig, name: str, master: Tensor, quantised: bool) -> Tensor:
    """One master weight as the model uses it.

    With `quantised` false everything but the router is plain BF16 (the baseline).
    """
    kind = storage_format(name)
    if kind == "f32":
        return master.float()
    if quantised and kind == "mxfp4":
        return round_mxfp4(master).bfloat16()
    if quantised and kind == "fp8":
        chunks = cfg.kv_heads if name.endswith("qkv") else 1
        return round_fp8(master, chunks).bfloat16()
    return master.bfloat16()


def working_weights(
    cfg: TargetConfig, masters: dict[str, Tensor], quantised: bool
) -> dict[str, Tensor]:
    """All weights as the model uses them (see :func:`working_weight`)."""
    return {n: working_weight(cfg, n, m, quantised) for n, m in masters.items()}
