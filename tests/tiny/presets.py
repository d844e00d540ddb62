"""Shapes of the tiny checkpoints: every layout of the family, in sizes that divide nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class DraftShape:
    """A DFlash drafter.

    Attributes
    ----------
    mask : how its sidecar is stored: pt, pt-dict, safetensors, or none.
    layer_types : per-layer kinds as config.json spells them; None leaves it to ``use_swa``.
    is_causal : explicit causality of the block; None leaves the key out.
    sinks : one learned logit per head.
    yarn : ``rope_scaling`` of its config.json; None leaves the key out.
    """

    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    partial_rotary_factor: float = 0.5
    intermediate: int = 40
    theta: float = 10000.0
    window: int = 11
    block_size: int = 8
    value_scale: float = 0.612
    eps: float = 1e-5
    taps: tuple[int, ...] = (0, 2, 3)
    mask: str = "pt"
    layer_types: tuple[str, ...] | None = None
    is_causal: bool | None = None
    sinks: bool = True
    yarn: dict | None = None


@dataclass(frozen=True)
class Preset:
    """Everything that decides the files of a tiny model.

    Attributes
    ----------
    sliding, sparse : per layer, sliding window (else full) and experts (else dense).
    window : keys a sliding layer sees, the query's own included.
    spelling : ``hub`` or ``transformers`` keys in config.json.
    fused : fused qkv in num_key_value_heads chunks, else separate projections.
    plain : dtype of norms, embeddings, head and o_proj: BF16 or F32.
    linear : dtype of qkv and the dense layer: ``plain`` or F8_E4M3.
    experts_dtype : ``plain``, F8_E4M3 or MXFP4.
    shards : number of safetensors files; more than one adds an index.
    tokenizer : also write tokenizer files (needs a vocabulary of 272 or more).
    full_sinks : full layers have sinks too.
    mtp : also write ``model.mtp.*`` tensors, which a loader must skip.
    """

    model_type: str = "mimo_v2"
    vocab: int = 197
    hidden: int = 64
    heads: int = 8
    kv_heads: int = 4
    swa_kv_heads: int = 4
    head_dim: int = 36
    v_head_dim: int = 28
    partial_rotary_factor: float = 0.334
    theta: float = 10_000_000.0
    swa_theta: float = 10_000.0
    value_scale: float = 0.612
    eps: float = 1e-5
    intermediate: int = 72
    moe_intermediate: int = 32
    experts: int = 9
    top_k: int = 3
    window: int = 7
    sliding: tuple[int, ...] = (0, 1, 1, 0)
    sparse: tuple[int, ...] = (0, 1, 1, 1)
    spelling: str = "hub"
    fused: bool = True
    plain: str = "BF16"
    linear: str = "F8_E4M3"
    experts_dtype: str = "MXFP4"
    router_dtype: str = "F32"
    norm_topk: bool = True
    scaling_factor: float | None = None
    full_sinks: bool = False
    shards: int = 1
    tokenizer: bool = False
    mtp: bool = False
    draft: DraftShape | None = field(default_factory=DraftShape)

    def but(self, **changes: object) -> Preset:
        """A copy with some fields changed."""
        return replace(self, **changes)


_FLASH = Preset(
    model_type="mimo_v2_flash",
    vocab=163,
    hidden=56,
    kv_heads=2,
    swa_kv_heads=4,
    head_dim=12,
    v_head_dim=10,
    theta=5_000_000.0,
    value_scale=0.707,
    moe_intermediate=24,
    experts=6,
    sliding=(0, 1, 1, 0),
    fused=False,
    linear="BF16",
    experts_dtype="BF16",
    draft=DraftShape(mask="safetensors"),
)

_V25 = Preset(
    vocab=151,
    hidden=132,
    heads=4,
    kv_heads=2,
    swa_kv_heads=4,
    value_scale=0.707,
    eps=1e-6,
    intermediate=44,
    moe_intermediate=24,
    experts=4,
    top_k=2,
    window=9,
    sliding=(0, 1, 1),
    sparse=(0, 1, 1),
    experts_dtype="F8_E4M3",
    shards=2,
    draft=DraftShape(layers=1, eps=1e-6, taps=(0, 2), mask="pt-dict"),
)

PRESETS: dict[str, Preset] = {
    "flash": _FLASH,
    "flash-f32": _FLASH.but(plain="F32", linear="F32", experts_dtype="F32", shards=3),
    "flash-transformers": _FLASH.but(spelling="transformers", draft=None),
    "pro": Preset(),
    "pro-fp8": Preset(experts_dtype="F8_E4M3", mtp=True),
    "v25": _V25,
    "v26": _V25.but(
        hidden=160,
        moe_intermediate=64,
        vocab=288,
        experts_dtype="MXFP4",
        router_dtype="BF16",
        tokenizer=True,
        mtp=True,
    ),
}
