"""MiMo-V2 checkpoints as models of transformers, to train them.

transformers knows ``mimo_v2_flash``: separate projections, and twice as many key/value heads in
sliding layers as in full ones. A ``mimo_v2`` checkpoint is opened as one: its fused projections
are taken apart, and where its head counts differ, key/value heads are repeated, which changes
nothing that the model computes.
"""

import os
from typing import Any

import numpy as np
import torch

from kilotok.errors import ModelFormatError
from kilotok.loading import resolve
from kilotok.reference.config import LayerConfig, MimoConfig
from kilotok.reference.mimo import Mimo

__all__ = ["open_mimo"]


def open_mimo(path: str | os.PathLike[str] | None, dtype: torch.dtype = torch.float32) -> Any:
    """Open a ``mimo_v2`` or ``mimo_v2_flash`` checkpoint of any stored format for training.

    Every stored format is decoded exactly into float32. The whole model is held in memory.

    Parameters
    ----------
    path : str, path or None
        A checkpoint directory, a hub id, or ``None`` for the demo checkpoint.
    dtype : torch.dtype
        Of the parameters; training keeps float32 masters best.

    Returns
    -------
    transformers.MiMoV2FlashForCausalLM
        In evaluation mode; its `save_pretrained` writes a checkpoint that the engine loads.

    Raises
    ------
    ModelFormatError
        The checkpoint is of another family, or has sinks where transformers has none.
    """
    import transformers

    directory = resolve(path)
    try:
        source = Mimo(directory, np.float32)
    except (ValueError, KeyError) as error:
        raise ModelFormatError(f"{directory}: not a MiMo-V2 checkpoint: {error}") from error
    full_heads = _heads(source.config)
    config = transformers.MiMoV2FlashConfig(**_config(source, full_heads), dtype=dtype)
    config._attn_implementation = "eager"
    with torch.device("meta"):
        model = transformers.MiMoV2FlashForCausalLM(config)
    state = {
        name: torch.from_numpy(values).to(dtype) for name, values in _state(source, full_heads)
    }
    model.load_state_dict(state, strict=True, assign=True)
    # Not stored: frequencies are made where the configuration is known, and not on `meta`.
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model.eval()


def _heads(config: MimoConfig) -> int:
    """Key/value heads of full layers so that those of sliding ones are twice as many."""
    queries = config.layers[0].heads
    for count in range(1, queries // 2 + 1):
        fits = all(
            layer.heads == queries
            and (2 * count if layer.window else count) % layer.kv_heads == 0
            and queries % (2 * count) == 0
            for layer in config.layers
        )
        if fits:
            return count
    raise ModelFormatError("the head counts cannot be expressed as mimo_v2_flash")


def _config(source: Mimo, full_heads: int) -> dict[str, Any]:
    """A configuration in transformers' spelling."""
    config, raw = source.config, source.checkpoint.config
    if any(layer.sinks != bool(layer.window) for layer in config.layers):
        raise ModelFormatError("transformers has sinks in sliding layers, and in no others")
    rope = {}
    for kind, sliding in (("full_attention", False), ("sliding_attention", True)):
        like = next((x for x in config.layers if bool(x.window) == sliding), config.layers[0])
        rope[kind] = {
            "rope_type": "default",
            "rope_theta": like.theta,
            "partial_rotary_factor": like.rotary_dim / like.head_dim,
        }
    sparse = next((i for i, layer in enumerate(config.layers) if layer.sparse), None)
    dense = next((i for i, layer in enumerate(config.layers) if not layer.sparse), None)
    windows = {layer.window for layer in config.layers if layer.window}
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": (
            raw.get("intermediate_size", 1)
            if dense is None
            else source.layers[dense]["gate"].shape[0]
        ),
        "moe_intermediate_size": (
            raw["moe_intermediate_size"]
            if sparse is None
            else source.layers[sparse]["gate"].shape[1]
        ),
        "num_hidden_layers": len(config.layers),
        "num_attention_heads": config.layers[0].heads,
        "num_key_value_heads": full_heads,
        "head_dim": config.layers[0].head_dim,
        "v_head_dim": config.layers[0].v_head_dim,
        "max_position_embeddings": raw["max_position_embeddings"],
        "n_routed_experts": config.num_experts,
        "num_experts_per_tok": config.top_k,
        "norm_topk_prob": config.norm_topk,
        "routed_scaling_factor": config.scaling_factor,
        "attention_value_scale": config.value_scale,
        "rms_norm_eps": config.eps,
        "sliding_window": max(windows, default=1),
        "layer_types": [
            "sliding_attention" if layer.window else "full_attention" for layer in config.layers
        ],
        "mlp_layer_types": ["sparse" if layer.sparse else "dense" for layer in config.layers],
        "rope_parameters": rope,
        "bos_token_id": None,
        "eos_token_id": raw.get("eos_token_id"),
        "pad_token_id": raw.get("pad_token_id"),
        "tie_word_embeddings": False,
    }


def _state(source: Mimo, full_heads: int) -> list[tuple[str, np.ndarray]]:
    """Parameters by the names of transformers."""
    out = [
        ("model.embed_tokens.weight", source.embedding),
        ("model.norm.weight", source.norm),
        ("lm_head.weight", source.head),
    ]
    for index, (layer, w) in enumerate(zip(source.config.layers, source.layers, strict=True)):
        root = f"model.layers.{index}."
        heads = 2 * full_heads if layer.window else full_heads
        q, k, v = _projections(layer, w["qkv"], source.config.chunks or 1, heads)
        out += [
            (f"{root}input_layernorm.weight", w["attn_norm"]),
            (f"{root}post_attention_layernorm.weight", w["ffn_norm"]),
            (f"{root}self_attn.q_proj.weight", q),
            (f"{root}self_attn.k_proj.weight", k),
            (f"{root}self_attn.v_proj.weight", v),
            (f"{root}self_attn.o_proj.weight", w["o"]),
        ]
        if layer.sinks:
            out.append((f"{root}self_attn.sinks", w["sinks"]))
        if layer.sparse:
            out += [
                (f"{root}mlp.gate.weight", w["router"]),
                (f"{root}mlp.gate.e_score_correction_bias", w["router_bias"]),
                (
                    f"{root}mlp.experts.gate_up_proj",
                    np.concatenate([w["gate"], w["up"]], axis=1),
                ),
                (f"{root}mlp.experts.down_proj", w["down"]),
            ]
        else:
            out += [(f"{root}mlp.{kind}_proj.weight", w[kind]) for kind in ("gate", "up", "down")]
    return [(name, np.ascontiguousarray(values, np.float32)) for name, values in out]


def _projections(
    layer: LayerConfig, qkv: np.ndarray, chunks: int, kv_heads: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Query, key and value rows out of ``[Q | K | V]`` chunks; key/value heads repeated."""
    hidden = qkv.shape[1]
    sizes = (
        layer.heads // chunks * layer.head_dim,
        layer.kv_heads // chunks * layer.head_dim,
        layer.kv_heads // chunks * layer.v_head_dim,
    )
    parts = np.split(qkv.reshape(chunks, -1, hidden), np.cumsum(sizes)[:-1], axis=1)
    q, k, v = (part.reshape(-1, hidden) for part in parts)
    times = kv_heads // layer.kv_heads
    k = k.reshape(layer.kv_heads, layer.head_dim, hidden).repeat(times, axis=0)
    v = v.reshape(layer.kv_heads, layer.v_head_dim, hidden).repeat(times, axis=0)
    return q, k.reshape(-1, hidden), v.reshape(-1, hidden)
