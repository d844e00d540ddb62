"""Reading ``config.json`` of MiMo-V2 targets (both spellings) and DFlash drafters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kilotok.reference.errors import FormatError
from kilotok.reference.ops.attention import Yarn


@dataclass(frozen=True)
class LayerConfig:
    """One decoder layer. ``window`` (keys seen, own included) is None in full layers."""

    sparse: bool
    heads: int
    kv_heads: int
    head_dim: int
    v_head_dim: int
    rotary_dim: int
    theta: float
    window: int | None
    sinks: bool


@dataclass(frozen=True)
class MimoConfig:
    """The target model. ``chunks`` is the qkv chunk count, or None for split projections."""

    vocab_size: int
    hidden_size: int
    layers: tuple[LayerConfig, ...]
    num_experts: int
    top_k: int
    norm_topk: bool
    scaling_factor: float
    value_scale: float
    eps: float
    chunks: int | None


@dataclass(frozen=True)
class DraftConfig:
    """The drafter. ``windows`` holds one entry per layer, None for full attention."""

    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    rotary_dim: int
    theta: float
    eps: float
    value_scale: float
    sinks: bool
    windows: tuple[int | None, ...]
    causal: tuple[bool, ...]
    block_size: int
    mask_token_id: int
    target_layer_ids: tuple[int, ...]
    yarn: Yarn | None = None


def _first(config: dict, *names: str, default: Any = None) -> Any:
    """Return the first named key that is present and not null."""
    for name in names:
        if config.get(name) is not None:
            return config[name]
    if default is None:
        raise FormatError(f"config.json: {' or '.join(names)} is missing")
    return default


def _layer(config: dict, sliding: bool, sparse: bool) -> LayerConfig:
    prefix = "swa_" if sliding else ""
    heads = _first(config, f"{prefix}num_attention_heads", "num_attention_heads")
    kv_heads = config["num_key_value_heads"]
    if sliding:
        # The spelling transformers writes has no key for it: always twice the full layers' heads.
        kv_heads = config.get("swa_num_key_value_heads") or 2 * kv_heads
    head_dim = _first(config, f"{prefix}head_dim", "head_dim")
    if "rope_parameters" in config:
        rope = config["rope_parameters"]["sliding_attention" if sliding else "full_attention"]
        theta, factor = rope["rope_theta"], rope["partial_rotary_factor"]
    else:
        theta = config["swa_rope_theta" if sliding else "rope_theta"]
        factor = config["partial_rotary_factor"]
    sink_key = "add_swa_attention_sink_bias" if sliding else "add_full_attention_sink_bias"
    return LayerConfig(
        sparse=sparse,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        v_head_dim=_first(config, f"{prefix}v_head_dim", "v_head_dim"),
        rotary_dim=int(head_dim * factor),
        theta=float(theta),
        window=config["sliding_window"] if sliding else None,
        sinks=config.get(sink_key, sliding),
    )


def parse_target(config: dict) -> MimoConfig:
    """Read a ``mimo_v2`` or ``mimo_v2_flash`` config in hub or transformers spelling."""
    if config.get("model_type") not in ("mimo_v2", "mimo_v2_flash"):
        raise FormatError(f"config.json: model_type {config.get('model_type')!r} is not MiMo-V2")
    if "layer_types" in config:
        sliding = [kind == "sliding_attention" for kind in config["layer_types"]]
        sparse = [kind == "sparse" for kind in config["mlp_layer_types"]]
    else:
        sliding = [bool(kind) for kind in config["hybrid_layer_pattern"]]
        sparse = [bool(kind) for kind in config["moe_layer_freq"]]
    count = config["num_hidden_layers"]
    if not len(sliding) == len(sparse) == count:
        raise FormatError(
            f"config.json: {len(sliding)}, {len(sparse)} layer kinds for {count} layers"
        )
    fused = config.get("attention_projection_layout", "split") == "fused_qkv"
    return MimoConfig(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        layers=tuple(_layer(config, w, s) for w, s in zip(sliding, sparse, strict=True)),
        num_experts=config["n_routed_experts"],
        top_k=config["num_experts_per_tok"],
        norm_topk=config.get("norm_topk_prob", True),
        scaling_factor=float(_first(config, "routed_scaling_factor", default=1.0)),
        value_scale=float(_first(config, "attention_value_scale", default=1.0)),
        eps=_first(config, "rms_norm_eps", "layernorm_epsilon"),
        chunks=config["num_key_value_heads"] if fused else None,
    )


def parse_draft(config: dict) -> DraftConfig:
    """Read a DFlash drafter config; ``dflash_config`` takes precedence over the top level."""
    inner = {**config, **config.get("dflash_config", {})}
    layers = config["num_hidden_layers"]
    kinds = config.get("layer_types") or ["full_attention"] * layers
    if inner.get("use_swa") and "sliding_attention" not in kinds:
        kinds = ["sliding_attention"] * layers
        inner.setdefault("causal", False)
    sliding = [kind == "sliding_attention" for kind in kinds]
    window = inner.get("swa_window_size") or config.get("sliding_window")
    explicit = config.get("is_causal", inner.get("causal"))
    rope = config.get("rope_parameters") or config
    return DraftConfig(
        layers=layers,
        hidden_size=config["hidden_size"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
        rotary_dim=int(config["head_dim"] * config.get("partial_rotary_factor", 1.0)),
        theta=float(rope["rope_theta"]),
        eps=config["rms_norm_eps"],
        value_scale=float(inner.get("attention_value_scale", 1.0)),
        sinks=bool(inner.get("attention_sink_bias", False)),
        windows=tuple(window if s else None for s in sliding),
        causal=tuple(s if explicit is None else bool(explicit) for s in sliding),
        block_size=inner.get("block_size", 16),
        mask_token_id=inner["mask_token_id"],
        target_layer_ids=tuple(inner["target_layer_ids"]),
        yarn=Yarn.read(config),
    )
