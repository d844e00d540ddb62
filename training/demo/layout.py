"""Names and config files of the on-disk format of MiMo-V2.5-Pro-FP4-DFlash."""

from __future__ import annotations

from training.demo.preset import DrafterConfig, TargetConfig
from training.demo.vocabulary import END_OF_TEXT, IM_END, MASK

_TOP = {"embed": "model.embed_tokens.weight", "head": "lm_head.weight", "norm": "model.norm.weight"}
_LAYER = {
    "in_norm": "input_layernorm.weight",
    "post_norm": "post_attention_layernorm.weight",
    "qkv": "self_attn.qkv_proj.weight",
    "o": "self_attn.o_proj.weight",
    "sink": "self_attn.attention_sink_bias",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
    "router": "mlp.gate.weight",
    "bias": "mlp.gate.e_score_correction_bias",
}
_DRAFTER_LAYER = {
    "in_norm": "input_layernorm.weight",
    "post_norm": "post_attention_layernorm.weight",
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "o": "self_attn.o_proj.weight",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    "sink": "self_attn.attention_sink_bias",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
}


def target_name(name: str) -> str:
    """Checkpoint name of a target weight that is not an expert."""
    layer, _, leaf = name.rpartition(".")
    return f"model.layers.{layer}.{_LAYER[leaf]}" if layer else _TOP[leaf]


def expert_name(layer: str, expert: int, leaf: str) -> str:
    """Checkpoint name of one expert's matrix; leaf is experts_{gate,up,down}."""
    return f"model.layers.{layer}.mlp.experts.{expert}.{leaf.removeprefix('experts_')}_proj.weight"


def drafter_name(name: str) -> str:
    """Checkpoint name of a drafter weight."""
    layer, _, leaf = name.rpartition(".")
    return f"layers.{layer}.{_DRAFTER_LAYER[leaf]}" if layer else f"{leaf}.weight"


def target_config(cfg: TargetConfig) -> dict:
    """config.json of the target, in the hub's spelling."""
    return {
        "architectures": ["MiMoV2ForCausalLM"],
        "model_type": "mimo_v2",
        "torch_dtype": "bfloat16",
        "vocab_size": cfg.vocab,
        "hidden_size": cfg.hidden,
        "num_hidden_layers": cfg.layers,
        "hybrid_layer_pattern": list(cfg.pattern),
        "moe_layer_freq": [0] + [1] * (cfg.layers - 1),
        "num_attention_heads": cfg.heads,
        "swa_num_attention_heads": cfg.heads,
        "num_key_value_heads": cfg.kv_heads,
        "swa_num_key_value_heads": cfg.kv_heads,
        "head_dim": cfg.head_dim,
        "swa_head_dim": cfg.head_dim,
        "v_head_dim": cfg.v_head_dim,
        "swa_v_head_dim": cfg.v_head_dim,
        "sliding_window": cfg.window,
        "sliding_window_size": cfg.window,
        "attention_chunk_size": cfg.window,
        "rope_theta": cfg.rope_theta,
        "swa_rope_theta": cfg.swa_rope_theta,
        "partial_rotary_factor": cfg.rotary_factor,
        "attention_value_scale": cfg.value_scale,
        "add_swa_attention_sink_bias": True,
        "add_full_attention_sink_bias": False,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attention_projection_layout": "fused_qkv",
        "intermediate_size": cfg.dense_inter,
        "moe_intermediate_size": cfg.expert_inter,
        "n_routed_experts": cfg.experts,
        "num_experts_per_tok": cfg.top_k,
        "n_shared_experts": None,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": None,
        "layernorm_epsilon": cfg.eps,
        "hidden_act": "silu",
        "max_position_embeddings": cfg.max_position,
        "tie_word_embeddings": False,
        "use_cache": True,
        "eos_token_id": IM_END,
        "pad_token_id": END_OF_TEXT,
        "quantization_config": {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": [128, 128],
            "store_dtype": "mxfp4",
            "mxfp4_block_size": 32,
            "ignored_layers": [f"model.layers.{i}.self_attn.o_proj" for i in range(cfg.layers)],
        },
    }


def drafter_config(cfg: DrafterConfig, target: TargetConfig) -> dict:
    """dflash/config.json."""
    return {
        "architectures": ["DFlashDraftModel"],
        "model_type": "qwen3",
        "torch_dtype": "bfloat16",
        "vocab_size": target.vocab,
        "hidden_size": cfg.hidden,
        "intermediate_size": cfg.inter,
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.heads,
        "num_key_value_heads": cfg.kv_heads,
        "head_dim": cfg.head_dim,
        "v_head_dim": cfg.head_dim,
        "partial_rotary_factor": cfg.rotary_factor,
        "rope_theta": cfg.rope_theta,
        "sliding_window": cfg.window,
        "rms_norm_eps": cfg.eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": False,
        "max_position_embeddings": target.max_position,
        "num_target_layers": target.layers,
        "block_size": cfg.block,
        "bos_token_id": END_OF_TEXT,
        "eos_token_id": IM_END,
        "dflash_config": {
            "target_layer_ids": list(cfg.taps),
            "mask_token_id": MASK,
            "block_size": cfg.block,
            "use_swa": True,
            "swa_window_size": cfg.window,
            "attention_sink_bias": True,
            "attention_value_scale": cfg.value_scale,
            "loss_decay_gamma": cfg.gamma,
        },
    }


def generation_config() -> dict:
    """generation_config.json."""
    return {
        "eos_token_id": [IM_END, END_OF_TEXT],
        "pad_token_id": END_OF_TEXT,
        "do_sample": True,
        "temperature": 1.0,
        "top_p": 0.95,
    }
