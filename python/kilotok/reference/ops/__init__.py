"""Every op of a Program as one readable numpy function, under the name the engine gives it.

Ops compute in the dtype of their inputs (float32 or float64). Rows are axis 0 throughout.
"""

from kilotok.reference.ops.attention import (
    Yarn,
    attention_full,
    attention_swa,
    kv_append,
    masked_attention,
    o_proj,
    qkv,
    rope,
    value_scale,
)
from kilotok.reference.ops.draft import (
    draft_attention,
    draft_choose,
    draft_context,
    draft_embed,
    draft_fc,
    draft_qkv,
    draft_visible,
)
from kilotok.reference.ops.ffn import (
    clamped_swiglu,
    dense_down,
    dense_up,
    moe_down,
    moe_up,
    router,
    sigmoid,
    silu,
    silu_mul,
)
from kilotok.reference.ops.rows import embed, lm_head, rms_norm, tap
from kilotok.reference.ops.sampling import (
    Sampling,
    accept,
    choose,
    gumbel,
    gumbel_bits,
    kept_tokens,
    penalise,
)

__all__ = [
    "Sampling",
    "Yarn",
    "accept",
    "attention_full",
    "attention_swa",
    "choose",
    "clamped_swiglu",
    "dense_down",
    "dense_up",
    "draft_attention",
    "draft_choose",
    "draft_context",
    "draft_embed",
    "draft_fc",
    "draft_qkv",
    "draft_visible",
    "embed",
    "gumbel",
    "gumbel_bits",
    "kept_tokens",
    "kv_append",
    "lm_head",
    "masked_attention",
    "moe_down",
    "moe_up",
    "o_proj",
    "penalise",
    "qkv",
    "rms_norm",
    "rope",
    "router",
    "sigmoid",
    "silu",
    "silu_mul",
    "tap",
    "value_scale",
]
