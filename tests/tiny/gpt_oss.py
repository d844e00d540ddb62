"""Tiny gpt-oss checkpoints: experts in MXFP4, BF16 or F32, names of the hub or of the original."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

import numpy as np

from ._reference import reference
from .presets import DraftShape
from .weights import Draw, Stored, encode

#: A ramp inside the head, and few enough original positions that prompts go beyond them.
YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 2.0,
    "beta_slow": 0.25,
    "truncate": False,
}

DRAFT = DraftShape(
    theta=100.0,
    partial_rotary_factor=1.0,
    intermediate=40,
    value_scale=1.0,
    eps=1e-6,
    taps=(0, 2, 3),
    mask="none",
    layer_types=("full_attention", "full_attention"),
    sinks=False,
    yarn=YARN,
)


@dataclass(frozen=True)
class GptOssPreset:
    """Everything that decides the files of a tiny gpt-oss model.

    Attributes
    ----------
    sliding : per layer, sliding window (else full).
    window : keys a sliding layer sees, the query's own included.
    experts_dtype : MXFP4, BF16 or F32.
    plain : dtype of everything else: BF16 or F32.
    spelling : ``hub``, ``transformers`` (``rope_parameters``) or ``original`` (config and names).
    """

    model_type: str = "gpt_oss"
    vocab: int = 131
    hidden: int = 64
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 14
    intermediate: int = 32
    experts: int = 7
    top_k: int = 3
    window: int = 7
    sliding: tuple[int, ...] = (1, 0, 1, 0)
    theta: float = 100.0
    yarn: dict = field(default_factory=lambda: dict(YARN))
    eps: float = 1e-5
    limit: float = 1.5
    experts_dtype: str = "MXFP4"
    plain: str = "BF16"
    spelling: str = "hub"
    shards: int = 1
    tokenizer: bool = False
    draft: DraftShape | None = DRAFT

    def but(self, **changes: object) -> GptOssPreset:
        """A copy with some fields changed."""
        return replace(self, **changes)

    @property
    def sparse(self) -> tuple[int, ...]:
        """Every layer has experts."""
        return (1,) * len(self.sliding)


PRESETS: dict[str, GptOssPreset] = {
    "gptoss": GptOssPreset(),
    "gptoss-bf16": GptOssPreset(
        vocab=157,
        hidden=58,
        intermediate=27,
        experts_dtype="BF16",
        shards=2,
        spelling="transformers",
        yarn={**YARN, "truncate": True, "attention_factor": 1.1},
    ),
    "gptoss-f32": GptOssPreset(
        hidden=50, intermediate=21, experts_dtype="F32", plain="F32", heads=5, kv_heads=1
    ),
}


def target_config(p: GptOssPreset) -> dict:
    """The target's config.json."""
    if p.spelling == "original":
        return _original_config(p)
    config = {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "eos_token_id": None,
        "head_dim": p.head_dim,
        "hidden_act": "silu",
        "hidden_size": p.hidden,
        "initializer_range": 0.02,
        "intermediate_size": p.intermediate,
        "layer_types": ["sliding_attention" if s else "full_attention" for s in p.sliding],
        "max_position_embeddings": int(
            p.yarn["original_max_position_embeddings"] * p.yarn["factor"]
        ),
        "model_type": "gpt_oss",
        "num_attention_heads": p.heads,
        "num_experts_per_tok": p.top_k,
        "num_hidden_layers": len(p.sliding),
        "num_key_value_heads": p.kv_heads,
        "num_local_experts": p.experts,
        "output_router_logits": False,
        "pad_token_id": None,
        "rms_norm_eps": p.eps,
        "router_aux_loss_coef": 0.9,
        "sliding_window": p.window,
        "swiglu_limit": p.limit,
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": p.vocab,
    }
    if p.spelling == "transformers":
        config["rope_parameters"] = {**p.yarn, "rope_theta": p.theta}
        config["dtype"] = "bfloat16" if p.plain == "BF16" else "float32"
        config["swiglu_alpha"] = 1.702
    else:
        config["rope_scaling"] = p.yarn
        config["rope_theta"] = p.theta
        config["experts_per_token"] = p.top_k
        config["initial_context_length"] = p.yarn["original_max_position_embeddings"]
    if p.experts_dtype == "MXFP4":
        config["quantization_config"] = {
            "quant_method": "mxfp4",
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
        }
    return config


def _original_config(p: GptOssPreset) -> dict:
    return {
        "num_hidden_layers": len(p.sliding),
        "num_experts": p.experts,
        "experts_per_token": p.top_k,
        "vocab_size": p.vocab,
        "hidden_size": p.hidden,
        "intermediate_size": p.intermediate,
        "swiglu_limit": p.limit,
        "head_dim": p.head_dim,
        "num_attention_heads": p.heads,
        "num_key_value_heads": p.kv_heads,
        "sliding_window": p.window,
        "initial_context_length": p.yarn["original_max_position_embeddings"],
        "rope_theta": p.theta,
        "rope_scaling_factor": p.yarn["factor"],
        "rope_ntk_alpha": p.yarn["beta_slow"],
        "rope_ntk_beta": p.yarn["beta_fast"],
    }


def _matrices(name: str, x: np.ndarray, dtype: str) -> dict[str, Stored]:
    """Stacked matrices [E, outputs, inputs] as stored: MXFP4 by rows, other types transposed."""
    if dtype != "MXFP4":
        return encode(name, np.ascontiguousarray(x.transpose(0, 2, 1)), dtype)
    experts, rows, cols = x.shape
    packed, scales = reference.formats.encode_mxfp4(x.reshape(-1, cols))
    return {
        f"{name}_blocks": Stored("U8", packed.reshape(experts, rows, cols // 32, 16)),
        f"{name}_scales": Stored("U8", scales.reshape(experts, rows, cols // 32)),
    }


def _layer(p: GptOssPreset, draw: Draw, i: int) -> dict[str, Stored]:
    root = f"model.layers.{i}."
    attn, mlp = f"{root}self_attn.", f"{root}mlp."
    out: dict[str, Stored] = {}
    for name in ("input_layernorm", "post_attention_layernorm"):
        out |= encode(f"{root}{name}.weight", draw.norm(root + name, p.hidden), p.plain)
    q, kv = p.heads * p.head_dim, p.kv_heads * p.head_dim
    for name, rows, cols in (
        ("q", q, p.hidden),
        ("k", kv, p.hidden),
        ("v", kv, p.hidden),
        ("o", p.hidden, q),
    ):
        out |= encode(f"{attn}{name}_proj.weight", draw(attn + name, rows, cols), p.plain)
        bias = draw(f"{attn}{name}.bias", rows, std=0.3)
        out |= encode(f"{attn}{name}_proj.bias", bias, p.plain)
    out |= encode(f"{attn}sinks", draw(f"{attn}sink", p.heads, std=1.0), p.plain)
    router = draw(f"{root}router", p.experts, p.hidden) * np.float32(1.5)
    out |= encode(f"{mlp}router.weight", router, p.plain)
    out |= encode(f"{mlp}router.bias", draw(f"{root}router.bias", p.experts, std=0.3), p.plain)
    for name, rows, cols in (
        ("gate_up", 2 * p.intermediate, p.hidden),
        ("down", p.hidden, p.intermediate),
    ):
        stacked = draw(mlp + name, p.experts, rows, cols) * np.float32(1.5)
        out |= _matrices(f"{mlp}experts.{name}_proj", stacked, p.experts_dtype)
        bias = draw(f"{mlp}{name}.bias", p.experts, rows, std=0.3)
        out |= encode(f"{mlp}experts.{name}_proj_bias", bias, p.plain)
    return out


def target_tensors(p: GptOssPreset, seed: int) -> dict[str, Stored]:
    """All tensors of the target, in name order."""
    draw = Draw(seed)
    out = encode("model.embed_tokens.weight", draw("embed", p.vocab, p.hidden, std=1.0), p.plain)
    out |= encode("model.norm.weight", draw.norm("norm", p.hidden), p.plain)
    out |= encode("lm_head.weight", draw("head", p.vocab, p.hidden) * np.float32(3), p.plain)
    for i in range(len(p.sliding)):
        out |= _layer(p, draw, i)
    if p.spelling == "original":
        out = _original_names(out)
    return dict(sorted(out.items()))


#: Names of transformers and of the original release, after the layer's prefix.
ORIGINAL = {
    "input_layernorm.weight": "attn.norm.scale",
    "self_attn.sinks": "attn.sinks",
    "self_attn.o_proj.weight": "attn.out.weight",
    "self_attn.o_proj.bias": "attn.out.bias",
    "post_attention_layernorm.weight": "mlp.norm.scale",
    "mlp.router.weight": "mlp.gate.weight",
    "mlp.router.bias": "mlp.gate.bias",
    "mlp.experts.gate_up_proj_blocks": "mlp.mlp1_weight.blocks",
    "mlp.experts.gate_up_proj_scales": "mlp.mlp1_weight.scales",
    "mlp.experts.gate_up_proj_bias": "mlp.mlp1_bias",
    "mlp.experts.down_proj_blocks": "mlp.mlp2_weight.blocks",
    "mlp.experts.down_proj_scales": "mlp.mlp2_weight.scales",
    "mlp.experts.down_proj_bias": "mlp.mlp2_bias",
}


def _original_names(tensors: dict[str, Stored]) -> dict[str, Stored]:
    out = {
        "embedding.weight": tensors["model.embed_tokens.weight"],
        "unembedding.weight": tensors["lm_head.weight"],
        "norm.scale": tensors["model.norm.weight"],
    }
    for name, stored in tensors.items():
        match = re.fullmatch(r"model\.layers\.(\d+)\.(.*)", name)
        if match and match[2] in ORIGINAL:
            out[f"block.{match[1]}.{ORIGINAL[match[2]]}"] = stored
        elif match and match[2].startswith("self_attn.q_proj."):
            parts = [tensors[name.replace("q_proj", f"{s}_proj")].data for s in "qkv"]
            kind = name.rsplit(".", 1)[1]
            joined = Stored(stored.dtype, np.concatenate(parts))
            out[f"block.{match[1]}.attn.qkv.{kind}"] = joined
    return out


def taps_of_all(p: GptOssPreset) -> DraftShape:
    """The preset's drafter with a tap after every layer."""
    return replace(p.draft or DRAFT, taps=tuple(range(len(p.sliding))))
