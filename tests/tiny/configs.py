"""config.json of a tiny target (hub or transformers spelling) and of its drafter."""

from __future__ import annotations

from .presets import Preset


def target_config(p: Preset) -> dict:
    """The target's config in the preset's spelling."""
    common = {
        "model_type": p.model_type,
        "vocab_size": p.vocab,
        "hidden_size": p.hidden,
        "intermediate_size": p.intermediate,
        "moe_intermediate_size": p.moe_intermediate,
        "num_hidden_layers": len(p.sliding),
        "num_attention_heads": p.heads,
        "num_key_value_heads": p.kv_heads,
        "head_dim": p.head_dim,
        "v_head_dim": p.v_head_dim,
        "n_routed_experts": p.experts,
        "num_experts_per_tok": p.top_k,
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": p.norm_topk,
        "attention_value_scale": p.value_scale,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "initializer_range": 0.02,
        "use_cache": True,
    }
    return (_transformers if p.spelling == "transformers" else _hub)(p, common)


def _hub(p: Preset, common: dict) -> dict:
    config = {
        "architectures": [
            "MiMoV2FlashForCausalLM" if p.model_type == "mimo_v2_flash" else "MiMoV2ForCausalLM"
        ],
        **common,
        "swa_num_attention_heads": p.heads,
        "swa_num_key_value_heads": p.swa_kv_heads,
        "swa_head_dim": p.head_dim,
        "swa_v_head_dim": p.v_head_dim,
        "hybrid_layer_pattern": list(p.sliding),
        "moe_layer_freq": list(p.sparse),
        "sliding_window": p.window,
        "sliding_window_size": p.window,
        "attention_chunk_size": p.window,
        "rope_theta": p.theta,
        "swa_rope_theta": p.swa_theta,
        "partial_rotary_factor": p.partial_rotary_factor,
        "add_swa_attention_sink_bias": True,
        "add_full_attention_sink_bias": p.full_sinks,
        "n_shared_experts": None,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "routed_scaling_factor": p.scaling_factor,
        "layernorm_epsilon": p.eps,
        "torch_dtype": "bfloat16" if p.plain == "BF16" else "float32",
    }
    if p.fused:
        config["attention_projection_layout"] = "fused_qkv"
    if p.router_dtype == "BF16":
        config["moe_router_dtype"] = "bfloat16"
    if p.linear == "F8_E4M3":
        config["quantization_config"] = {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": [128, 128],
            "ignored_layers": [
                *(f"model.layers.{i}.self_attn.o_proj" for i in range(len(p.sliding))),
                "model.decoder.self_attn.o_proj",
            ],
        }
        if p.experts_dtype == "MXFP4":
            config["quantization_config"] |= {"store_dtype": "mxfp4", "mxfp4_block_size": 32}
    return config


def _transformers(p: Preset, common: dict) -> dict:
    if p.swa_kv_heads != 2 * p.kv_heads:
        raise ValueError("transformers spelling: sliding layers have twice the kv heads")
    rope = {"rope_type": "default", "partial_rotary_factor": p.partial_rotary_factor}
    return {
        "architectures": ["MiMoV2FlashForCausalLM"],
        **common,
        "bos_token_id": None,
        "dtype": "bfloat16" if p.plain == "BF16" else "float32",
        "eos_token_id": None,
        "layer_types": ["sliding_attention" if s else "full_attention" for s in p.sliding],
        "mlp_layer_types": ["sparse" if s else "dense" for s in p.sparse],
        "output_router_logits": False,
        "pad_token_id": None,
        "rms_norm_eps": p.eps,
        "rope_parameters": {
            "full_attention": {**rope, "rope_theta": p.theta},
            "sliding_attention": {**rope, "rope_theta": p.swa_theta},
        },
        "routed_scaling_factor": 1.0 if p.scaling_factor is None else p.scaling_factor,
        "sliding_window": p.window,
        "transformers_version": "5.23.0",
    }


def draft_config(p: Preset) -> dict:
    """The drafter's config, with the keys of the published MiMo drafters."""
    d = p.draft
    assert d is not None
    config = {
        "architectures": ["DFlashDraftModel"],
        "model_type": "qwen3",
        "hidden_size": p.hidden,
        "intermediate_size": d.intermediate,
        "num_hidden_layers": d.layers,
        "num_attention_heads": d.heads,
        "num_key_value_heads": d.kv_heads,
        "head_dim": d.head_dim,
        "v_head_dim": d.head_dim,
        "partial_rotary_factor": d.partial_rotary_factor,
        "block_size": d.block_size,
        "num_target_layers": len(p.sliding),
        # Published drafters disagree with their target here; the target's table is always used.
        "vocab_size": p.vocab - 5,
        "max_position_embeddings": 4096,
        "rope_theta": d.theta,
        "sliding_window": d.window,
        "rms_norm_eps": d.eps,
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "dflash_config": {
            "target_layer_ids": list(d.taps),
            "mask_token_id": p.vocab - 2,
            "block_size": d.block_size,
            "num_anchors": 4096,
            "loss_decay_gamma": 7.0,
            "use_swa": True,
            "swa_window_size": d.window,
            "backbone_rotary_base": 5_000_000,
            "attention_value_scale": d.value_scale,
            "attention_sink_bias": d.sinks,
        },
    }
    if d.layer_types is not None:
        config["layer_types"] = list(d.layer_types)
        del config["dflash_config"]["use_swa"]
    if d.yarn is not None:
        config["rope_scaling"] = d.yarn
    if d.is_causal is not None:
        config["is_causal"] = d.is_causal
    return config
