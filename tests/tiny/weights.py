"""Random weights of a tiny model, as the named tensors its files hold.

Scales keep every activation of order one, attention and router far from uniform, and logits spread
over several units, so that a wrong detail moves the output well beyond any rounding.
"""

from __future__ import annotations

import numpy as np

from ._reference import reference
from .presets import Preset

Stored = reference.checkpoint.Stored
formats = reference.formats


class Draw:
    """Named draws: each tensor has its own generator, so presets may differ in what they hold."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, name: str, *shape: int, std: float | None = None) -> np.ndarray:
        rng = np.random.default_rng([self.seed, *name.encode()])
        std = shape[-1] ** -0.5 if std is None else std
        return (rng.standard_normal(shape) * std).astype(np.float32)

    def norm(self, name: str, size: int) -> np.ndarray:
        """A norm weight near one."""
        return 1 + self(name, size, std=0.15)


def encode(name: str, x: np.ndarray, dtype: str, chunks: int = 1) -> dict[str, Stored]:
    """A weight as stored: itself, plus its scale tensor for FP8 and MXFP4."""
    if dtype == "F32":
        return {name: Stored("F32", x.astype("<f4"))}
    if dtype == "BF16":
        return {name: Stored("BF16", formats.encode_bf16(x))}
    if dtype == "F8_E4M3":
        codes, scale = formats.encode_fp8(x, chunks)
        return {
            name: Stored("F8_E4M3", codes),
            f"{name}_scale_inv": Stored("F32", scale),
        }
    if dtype == "MXFP4":
        packed, scales = formats.encode_mxfp4(x)
        return {name: Stored("U8", packed), f"{name}_scale": Stored("U8", scales)}
    raise ValueError(f"unknown storage dtype {dtype}")


def interleave(q: np.ndarray, k: np.ndarray, v: np.ndarray, chunks: int) -> np.ndarray:
    """Rows of q, k, v as chunks [Q_0 | K_0 | V_0 | Q_1 | ...]."""
    parts = [np.split(x, chunks) for x in (q, k, v)]
    return np.concatenate([part[t] for t in range(chunks) for part in parts])


def _attention(p: Preset, draw: Draw, root: str, sliding: bool) -> dict[str, Stored]:
    kv = p.swa_kv_heads if sliding else p.kv_heads
    rows = {"q": p.heads * p.head_dim, "k": kv * p.head_dim, "v": kv * p.v_head_dim}
    proj = {s: draw(f"{root}{s}", n, p.hidden) for s, n in rows.items()}
    out: dict[str, Stored] = {}
    if p.fused:
        fused = interleave(proj["q"], proj["k"], proj["v"], p.kv_heads)
        out |= encode(f"{root}qkv_proj.weight", fused, p.linear, p.kv_heads)
    else:
        for s, w in proj.items():
            out |= encode(f"{root}{s}_proj.weight", w, p.linear)
    width = p.heads * p.v_head_dim
    out |= encode(f"{root}o_proj.weight", draw(f"{root}o", p.hidden, width), p.plain)
    if sliding or p.full_sinks:
        out |= encode(f"{root}attention_sink_bias", draw(f"{root}sink", p.heads, std=1.0), p.plain)
    return out


def _swiglu(
    draw: Draw, root: str, hidden: int, width: int, dtype: str, std: float = 1.5
) -> dict[str, Stored]:
    out: dict[str, Stored] = {}
    for kind, shape in {
        "gate": (width, hidden),
        "up": (width, hidden),
        "down": (hidden, width),
    }.items():
        w = draw(f"{root}{kind}", *shape) * np.float32(std)
        out |= encode(f"{root}{kind}_proj.weight", w, dtype)
    return out


def _layer(p: Preset, draw: Draw, i: int) -> dict[str, Stored]:
    root = f"model.layers.{i}."
    out = _attention(p, draw, f"{root}self_attn.", bool(p.sliding[i]))
    for name in ("input_layernorm", "post_attention_layernorm"):
        weight = draw.norm(f"{root}{name}", p.hidden)
        out |= encode(f"{root}{name}.weight", weight, p.plain)
    if not p.sparse[i]:
        return out | _swiglu(draw, f"{root}mlp.", p.hidden, p.intermediate, p.linear)
    router = draw(f"{root}router", p.experts, p.hidden) * np.float32(1.5)
    bias = draw(f"{root}bias", p.experts, std=0.1)
    out |= encode(f"{root}mlp.gate.weight", router, p.router_dtype)
    out |= encode(f"{root}mlp.gate.e_score_correction_bias", bias, "F32")
    for e in range(p.experts):
        root_e = f"{root}mlp.experts.{e}."
        out |= _swiglu(draw, root_e, p.hidden, p.moe_intermediate, p.experts_dtype)
    return out


def _mtp(p: Preset, draw: Draw) -> dict[str, Stored]:
    root = "model.mtp.layers.0."
    out = _attention(p, draw, f"{root}self_attn.", True)
    for name in ("enorm", "hnorm", "input_layernorm", "pre_mlp_layernorm", "final_layernorm"):
        out |= encode(f"{root}{name}.weight", draw.norm(f"{root}{name}", p.hidden), p.plain)
    out |= encode(f"{root}eh_proj.weight", draw(f"{root}eh", p.hidden, 2 * p.hidden), p.plain)
    return out | _swiglu(draw, f"{root}mlp.", p.hidden, p.intermediate, p.linear)


def target_tensors(p: Preset, seed: int) -> dict[str, Stored]:
    """All tensors of the target, in name order."""
    draw = Draw(seed)
    table = draw("embed", p.vocab, p.hidden, std=1.0)
    # As in the released models, the mask token was never trained: its row is almost zero.
    table[p.vocab - 2] *= np.float32(1e-3)
    out = encode("model.embed_tokens.weight", table, p.plain)
    out |= encode("model.norm.weight", draw.norm("norm", p.hidden), p.plain)
    out |= encode("lm_head.weight", draw("head", p.vocab, p.hidden) * np.float32(3), p.plain)
    for i in range(len(p.sliding)):
        out |= _layer(p, draw, i)
    if p.mtp:
        out |= _mtp(p, draw)
    return dict(sorted(out.items()))


def draft_tensors(p: Preset, seed: int) -> tuple[dict[str, Stored], np.ndarray]:
    """All tensors of the drafter in name order, and its mask embedding (float32 [H])."""
    d, draw = p.draft, Draw(seed)
    assert d is not None
    out = encode("fc.weight", draw("fc", p.hidden, len(d.taps) * p.hidden), "BF16")
    for name in ("hidden_norm", "norm"):
        out |= encode(f"{name}.weight", draw.norm(f"draft.{name}", p.hidden), "BF16")
    for i in range(d.layers):
        root = f"layers.{i}."
        attn = f"{root}self_attn."
        for name in ("input_layernorm", "post_attention_layernorm"):
            out |= encode(f"{root}{name}.weight", draw.norm(root + name, p.hidden), "BF16")
        for name in ("q_norm", "k_norm"):
            out |= encode(f"{attn}{name}.weight", draw.norm(attn + name, d.head_dim), "BF16")
        q, kv = d.heads * d.head_dim, d.kv_heads * d.head_dim
        for name, shape in {
            "q": (q, p.hidden),
            "k": (kv, p.hidden),
            "v": (kv, p.hidden),
            "o": (p.hidden, q),
        }.items():
            out |= encode(f"{attn}{name}_proj.weight", draw(attn + name, *shape), "BF16")
        if d.sinks:
            sink = draw(f"{attn}sink", d.heads, std=1.0)
            out |= encode(f"{attn}attention_sink_bias", sink, "BF16")
        out |= _swiglu(draw, f"{root}mlp.", p.hidden, d.intermediate, "BF16")
    mask = formats.decode_bf16(formats.encode_bf16(draw("mask", p.hidden, std=1.0)))
    return dict(sorted(out.items())), mask
