"""Tiny random mixture models of transformers, one per expert layout."""

from __future__ import annotations

import torch
import transformers

COMMON = {
    "vocab_size": 96,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "num_experts_per_tok": 2,
    "attn_implementation": "eager",
}


def _qwen3():
    config = transformers.Qwen3MoeConfig(
        **COMMON, intermediate_size=96, moe_intermediate_size=32, num_experts=4
    )
    return transformers.Qwen3MoeForCausalLM(config)


def _mixtral():
    config = transformers.MixtralConfig(**COMMON, intermediate_size=96, num_local_experts=4)
    return transformers.MixtralForCausalLM(config)


def _gpt_oss():
    config = transformers.GptOssConfig(
        **COMMON, intermediate_size=32, num_local_experts=4, sliding_window=16
    )
    return transformers.GptOssForCausalLM(config)


def _deepseek():
    config = transformers.DeepseekV3Config(
        **{**COMMON, "num_key_value_heads": 4, "head_dim": 8},
        intermediate_size=96,
        moe_intermediate_size=32,
        n_routed_experts=4,
        n_shared_experts=1,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=16,
        v_head_dim=16,
    )
    return transformers.DeepseekV3ForCausalLM(config)


def _mimo():
    config = transformers.MiMoV2FlashConfig(
        **COMMON,
        v_head_dim=16,
        intermediate_size=96,
        moe_intermediate_size=32,
        n_routed_experts=4,
        n_group=1,
        topk_group=1,
        sliding_window=16,
        layer_types=["full_attention", "sliding_attention"],
        mlp_layer_types=["dense", "sparse"],
        rope_parameters={
            kind: {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": 0.5}
            for kind, theta in (("full_attention", 1e5), ("sliding_attention", 1e4))
        },
    )
    return transformers.MiMoV2FlashForCausalLM(config)


FAMILIES = {
    "mimo_v2_flash": _mimo,
    "gpt_oss": _gpt_oss,
    "qwen3_moe": _qwen3,
    "mixtral": _mixtral,
    "deepseek_v3": _deepseek,
}


def make(family: str, seed: int = 0, dtype: torch.dtype = torch.float32):
    """A random model whose every parameter matters."""
    torch.manual_seed(seed)
    model = FAMILIES[family]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.1)
    return model.to(dtype).eval()


def batch(seed: int = 0, length: int = 12) -> torch.Tensor:
    """Token ids [2, length]."""
    return torch.randint(3, 96, (2, length), generator=torch.Generator().manual_seed(seed))
