"""gpt-oss targets (transformers' naming): biases, sinks in every layer, YaRN, clamped SwiGLU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kilotok.reference import ops
from kilotok.reference.checkpoint import Checkpoint
from kilotok.reference.errors import FormatError
from kilotok.reference.formats import decode_mxfp4
from kilotok.reference.target import Target


@dataclass(frozen=True)
class GptOssConfig:
    """The target. ``layers`` holds the window of each layer, None for full attention."""

    vocab_size: int
    hidden_size: int
    layers: tuple[int | None, ...]
    heads: int
    kv_heads: int
    head_dim: int
    theta: float
    yarn: ops.Yarn | None
    num_experts: int
    top_k: int
    alpha: float
    limit: float
    bias: bool
    eps: float

    @classmethod
    def read(cls, config: dict) -> GptOssConfig:
        """Read a ``gpt_oss`` config in the hub's or in transformers' spelling."""
        family = config.get("model_type")
        if family != "gpt_oss":
            raise FormatError(f"config.json: model_type {family!r} is not gpt_oss")
        window, count = config["sliding_window"], config["num_hidden_layers"]
        kinds = config["layer_types"]
        if len(kinds) != count:
            raise FormatError(f"config.json: {len(kinds)} layer_types for {count} layers")
        rope = config.get("rope_parameters") or config
        return cls(
            vocab_size=config["vocab_size"],
            hidden_size=config["hidden_size"],
            layers=tuple(window if kind == "sliding_attention" else None for kind in kinds),
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
            head_dim=config["head_dim"],
            theta=float(rope["rope_theta"]),
            yarn=ops.Yarn.read(config),
            num_experts=config["num_local_experts"],
            top_k=config["num_experts_per_tok"],
            alpha=config.get("swiglu_alpha", 1.702),
            limit=config.get("swiglu_limit", 7.0),
            bias=config.get("attention_bias", True),
            eps=config["rms_norm_eps"],
        )


class GptOss(Target):
    """A gpt-oss target loaded from a Hugging Face directory.

    Parameters
    ----------
    path : model directory; experts as MXFP4 ``*_blocks`` and ``*_scales`` or as BF16 or F32
        ``gate_up_proj`` [E, H, 2 F] and ``down_proj`` [E, F, H].
    dtype : arithmetic type.
    """

    config: GptOssConfig

    def __init__(self, path: str | Path, dtype: type = np.float64) -> None:
        self.checkpoint = Checkpoint.open(path)
        self.config = GptOssConfig.read(self.checkpoint.config)
        self.dtype = dtype
        self.embedding = self._array("model.embed_tokens.weight")
        self.head = self._array("lm_head.weight")
        self.norm = self._array("model.norm.weight")
        self.layers = [self._layer(f"model.layers.{i}.") for i in range(len(self.config.layers))]

    def _layer(self, root: str) -> dict[str, np.ndarray]:
        attn, experts = f"{root}self_attn.", f"{root}mlp.experts."
        names = {
            "attn_norm": f"{root}input_layernorm.weight",
            "ffn_norm": f"{root}post_attention_layernorm.weight",
            "o": f"{attn}o_proj.weight",
            "sinks": f"{attn}sinks",
            "router": f"{root}mlp.router.weight",
            "router_bias": f"{root}mlp.router.bias",
            "gate_up_bias": f"{experts}gate_up_proj_bias",
            "down_bias": f"{experts}down_proj_bias",
        }
        w = {key: self._array(name) for key, name in names.items()}
        w["qkv"] = np.concatenate([self._array(f"{attn}{p}_proj.weight") for p in "qkv"])
        if self.config.bias:
            w["qkv_bias"] = np.concatenate([self._array(f"{attn}{p}_proj.bias") for p in "qkv"])
            w["o_bias"] = self._array(f"{attn}o_proj.bias")
        # Gate and up rows alternate.
        gate_up = self._experts(f"{experts}gate_up_proj")
        w["gate"], w["up"] = gate_up[:, 0::2], gate_up[:, 1::2]
        w["gate_bias"], w["up_bias"] = w["gate_up_bias"][:, 0::2], w["gate_up_bias"][:, 1::2]
        w["down"] = self._experts(f"{experts}down_proj")
        return w

    def _experts(self, name: str) -> np.ndarray:
        """Matrices of all experts, [E, outputs, inputs]."""
        tensors = self.checkpoint.tensors
        if f"{name}_blocks" not in tensors:
            return self._array(name).transpose(0, 2, 1)
        blocks, scales = tensors[f"{name}_blocks"].data, tensors[f"{name}_scales"].data
        packed = blocks.reshape(*blocks.shape[:2], -1)
        decoded = [decode_mxfp4(b, s, name) for b, s in zip(packed, scales, strict=True)]
        return np.stack(decoded).astype(self.dtype)

    def attention(self, a: np.ndarray, layer: int | None, w: dict[str, np.ndarray]) -> np.ndarray:
        """Attention of normed rows [T, H]; ``layer`` is its window."""
        c, positions = self.config, np.arange(a.shape[0])
        q, k, v = ops.qkv(
            a, w["qkv"], c.heads, c.kv_heads, c.head_dim, c.head_dim, bias=w.get("qkv_bias")
        )
        q, k = (ops.rope(x, positions, c.theta, c.head_dim, c.yarn) for x in (q, k))
        if layer is None:
            out = ops.attention_full(q, k, v, positions, positions, w["sinks"])
        else:
            out = ops.attention_swa(q, k, v, positions, positions, layer, w["sinks"])
        return ops.o_proj(out, w["o"], w.get("o_bias"))

    def ffn(self, m: np.ndarray, layer: int | None, w: dict[str, np.ndarray]) -> np.ndarray:  # noqa: ARG002
        """Expert sub-layer on normed rows [T, H]."""
        c = self.config
        experts, gates = ops.router(m, w["router"], w["router_bias"], c.top_k, softmax=True)
        hidden = ops.moe_up(
            m,
            experts,
            w["gate"],
            w["up"],
            (w["gate_bias"], w["up_bias"]),
            lambda gate, up: ops.clamped_swiglu(gate, up, c.alpha, c.limit),
        )
        return ops.moe_down(hidden, experts, gates, w["down"], w["down_bias"])
