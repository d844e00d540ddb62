"""A fused, quantised MiMo-V2 checkpoint as the split, unquantised one that transformers can load.

transformers knows only ``mimo_v2_flash``: separate q/k/v, and twice as many key/value heads in
window layers as in full ones. The copy has the same function: quantised weights are decoded (which
is exact in float32), fused rows are put in order, and key/value heads of window layers are repeated
until there are enough of them.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from kilotok.reference import ops
from kilotok.reference.config import LayerConfig
from kilotok.reference.mimo import Mimo


def write_flash_copy(source: Path, target: Path) -> None:
    """Write the copy of checkpoint directory `source` to `target`.

    Everything is float32, so the copy takes about four times the space. The drafter is not copied.
    """
    model = Mimo(source, np.float32)
    tensors = {
        "model.embed_tokens.weight": model.embedding,
        "lm_head.weight": model.head,
        "model.norm.weight": model.norm,
    }
    full = next(layer for layer in model.config.layers if layer.window is None)
    for i, (layer, w) in enumerate(zip(model.config.layers, model.layers, strict=True)):
        root = f"model.layers.{i}."
        kv_heads = full.kv_heads if layer.window is None else 2 * full.kv_heads
        tensors |= _attention(root + "self_attn.", model, layer, w, kv_heads)
        tensors[root + "input_layernorm.weight"] = w["attn_norm"]
        tensors[root + "post_attention_layernorm.weight"] = w["ffn_norm"]
        if layer.sparse:
            tensors[root + "mlp.gate.weight"] = w["router"]
            tensors[root + "mlp.gate.e_score_correction_bias"] = w["router_bias"]
        for kind in ("gate", "up", "down"):
            if layer.sparse:
                for expert, matrix in enumerate(w[kind]):
                    tensors[f"{root}mlp.experts.{expert}.{kind}_proj.weight"] = matrix
            else:
                tensors[f"{root}mlp.{kind}_proj.weight"] = w[kind]
    target.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: np.ascontiguousarray(v) for k, v in tensors.items()}, target / "model.safetensors"
    )
    (target / "config.json").write_text(json.dumps(_config(model), indent=1))


def _attention(
    root: str, model: Mimo, layer: LayerConfig, w: dict[str, np.ndarray], kv_heads: int
) -> dict[str, np.ndarray]:
    # The projection of the identity, split into heads, is the weight in head order, transposed.
    identity = np.eye(w["qkv"].shape[1], dtype=np.float32)
    shape = (layer.heads, layer.kv_heads, layer.head_dim, layer.v_head_dim)
    q, k, v = ops.qkv(identity, w["qkv"], *shape, model.config.chunks or 1)
    repeat = kv_heads // layer.kv_heads
    out = {root + "o_proj.weight": w["o"]}
    for name, part, times in (("q", q, 1), ("k", k, repeat), ("v", v, repeat)):
        heads = np.repeat(part, times, axis=1)
        out[f"{root}{name}_proj.weight"] = heads.reshape(len(identity), -1).T
    if layer.sinks:
        out[root + "attention_sink_bias"] = w["sinks"]
    return out


def _config(model: Mimo) -> dict:
    """The config in transformers' own spelling, where the window means the same in all versions."""
    source, layers = model.checkpoint.config, model.config.layers
    full = next(layer for layer in layers if layer.window is None)
    swa = next(layer for layer in layers if layer.window is not None)
    same = (
        "vocab_size hidden_size intermediate_size moe_intermediate_size num_hidden_layers "
        "num_attention_heads num_key_value_heads head_dim v_head_dim n_routed_experts "
        "num_experts_per_tok n_group topk_group norm_topk_prob attention_value_scale "
        "attention_bias hidden_act max_position_embeddings tie_word_embeddings"
    )
    factor = source["partial_rotary_factor"]
    rope = {"rope_type": "default", "partial_rotary_factor": factor}
    return {
        "architectures": ["MiMoV2FlashForCausalLM"],
        "model_type": "mimo_v2_flash",
        **{key: source[key] for key in same.split()},
        "layer_types": [
            "full_attention" if layer.window is None else "sliding_attention" for layer in layers
        ],
        "mlp_layer_types": ["sparse" if layer.sparse else "dense" for layer in layers],
        "sliding_window": swa.window,
        "rope_parameters": {
            "full_attention": {**rope, "rope_theta": full.theta},
            "sliding_attention": {**rope, "rope_theta": swa.theta},
        },
        "rms_norm_eps": model.config.eps,
        "routed_scaling_factor": 1.0,
        "dtype": "float32",
    }
