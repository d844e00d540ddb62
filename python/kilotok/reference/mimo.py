"""The whole target model in numpy: every row recomputed from scratch, no cache, no batching."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kilotok.reference import ops
from kilotok.reference.checkpoint import Checkpoint
from kilotok.reference.config import LayerConfig, MimoConfig, parse_target
from kilotok.reference.target import Target


class Mimo(Target):
    """A MiMo-V2 target loaded from a Hugging Face directory.

    Parameters
    ----------
    path : model directory (``mimo_v2`` or ``mimo_v2_flash``, split or fused qkv; BF16, F32,
        FP8-e4m3 or MXFP4 tensors).
    dtype : arithmetic type. Weights decode exactly into either; float64 makes this an oracle whose
        own rounding does not matter beside an engine's.
    """

    def __init__(self, path: str | Path, dtype: type = np.float64) -> None:
        self.checkpoint = Checkpoint.open(path)
        self.config: MimoConfig = parse_target(self.checkpoint.config)
        self.dtype = dtype
        self.embedding = self._array("model.embed_tokens.weight")
        self.head = self._array("lm_head.weight")
        self.norm = self._array("model.norm.weight")
        self.layers = [self._layer(i, layer) for i, layer in enumerate(self.config.layers)]

    def _layer(self, index: int, layer: LayerConfig) -> dict[str, np.ndarray]:
        root = f"model.layers.{index}."
        names = {
            "attn_norm": "input_layernorm.weight",
            "ffn_norm": "post_attention_layernorm.weight",
            "o": "self_attn.o_proj.weight",
        }
        if layer.sinks:
            names["sinks"] = "self_attn.attention_sink_bias"
        if layer.sparse:
            names["router"] = "mlp.gate.weight"
            names["router_bias"] = "mlp.gate.e_score_correction_bias"
        else:
            for kind in ("gate", "up", "down"):
                names[kind] = f"mlp.{kind}_proj.weight"
        weights = {key: self._array(root + name) for key, name in names.items()}
        if self.config.chunks is None:
            parts = [self._array(f"{root}self_attn.{p}_proj.weight") for p in "qkv"]
            weights["qkv"] = np.concatenate(parts)
        else:
            weights["qkv"] = self._array(f"{root}self_attn.qkv_proj.weight", self.config.chunks)
        if layer.sparse:
            for kind in ("gate", "up", "down"):
                weights[kind] = np.stack(
                    [
                        self._array(f"{root}mlp.experts.{e}.{kind}_proj.weight")
                        for e in range(self.config.num_experts)
                    ]
                )
        return weights

    def attention(self, a: np.ndarray, layer: LayerConfig, w: dict[str, np.ndarray]) -> np.ndarray:
        """Attention of normed rows [T, H] at positions 0..T-1, before the residual add."""
        positions = np.arange(a.shape[0])
        q, k, v = ops.qkv(
            a,
            w["qkv"],
            layer.heads,
            layer.kv_heads,
            layer.head_dim,
            layer.v_head_dim,
            self.config.chunks or 1,
        )
        q = ops.rope(q, positions, layer.theta, layer.rotary_dim)
        k = ops.rope(k, positions, layer.theta, layer.rotary_dim)
        v = ops.value_scale(v, self.config.value_scale)
        if layer.window is not None:
            sinks = w.get("sinks")
            out = ops.attention_swa(q, k, v, positions, positions, layer.window, sinks)
        elif layer.sinks:
            causal = positions[None, :] <= positions[:, None]
            out = ops.masked_attention(q, k, v, causal, w["sinks"])
        else:
            out = ops.attention_full(q, k, v, positions, positions)
        return ops.o_proj(out, w["o"])

    def ffn(self, m: np.ndarray, layer: LayerConfig, w: dict[str, np.ndarray]) -> np.ndarray:
        """Dense or expert sub-layer on normed rows [T, H], before the residual add."""
        if not layer.sparse:
            return ops.dense_down(ops.dense_up(m, w["gate"], w["up"]), w["down"])
        c = self.config
        experts, gates = ops.router(
            m, w["router"], w["router_bias"], c.top_k, c.norm_topk, c.scaling_factor
        )
        return ops.moe_down(ops.moe_up(m, experts, w["gate"], w["up"]), experts, gates, w["down"])
