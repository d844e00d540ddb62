"""Drafts of many blocks of one text under any reading, in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kilotok.reference import ops
from kilotok.reference.config import DraftConfig
from kilotok.training.doctor.reading import Reading

__all__ = ["Parts", "Text", "draft_logits"]


@dataclass(frozen=True)
class Parts:
    """What drafts are made of.

    Attributes
    ----------
    config : the drafter's `DraftConfig` (sizes; conventions come from a `Reading`).
    layers : weights per drafter layer, by the names of `kilotok.reference.Drafter`.
    embed, head, final_norm : the target's; [V, H], [V, H], [H].
    mask : stored embedding of masked rows, [H].
    depth : target layers.
    max_positions : of the drafter's config, if it says.
    tappable : target layers whose residuals texts carry; others are not tried.
    """

    config: DraftConfig
    layers: list[dict[str, np.ndarray]]
    fc: np.ndarray
    hidden_norm: np.ndarray
    norm: np.ndarray
    embed: np.ndarray
    head: np.ndarray
    final_norm: np.ndarray
    final_eps: float
    mask: np.ndarray
    depth: int
    max_positions: int | None
    tappable: frozenset[int]


@dataclass(frozen=True)
class Text:
    """One prompt with the target's answer.

    Attributes
    ----------
    tokens : int64 [S]
    start : tokens of the prompt.
    residuals : by target layer (-1: the embedding), float32 [S, H].
    """

    tokens: np.ndarray
    start: int
    residuals: dict[int, np.ndarray]
    category: str = "all"


def draft_logits(parts: Parts, reading: Reading, text: Text, anchors: Sequence[int]) -> np.ndarray:
    """Logits [N, block - 1, V] behind anchors at the given positions.

    Row k - 1 is what the reading takes for the token at anchor + k.
    """
    c, r = parts.config, reading
    size, n = c.block_size, len(anchors)
    start = np.asarray(anchors)
    contexts = _contexts(parts, r, text)
    at = start[:, None] + np.arange(size)
    x = np.empty((n, size, c.hidden_size), np.float32)
    x[:, 0] = parts.embed[text.tokens[start]] * r.embed_scale
    x[:, 1:] = _mask_row(parts, r)
    for i, w in enumerate(parts.layers):
        y = ops.rms_norm(x, w["attn_norm"], c.eps)
        q = _times(y, w["q"]).reshape(n, size, c.heads, c.head_dim)
        q = _rotate(ops.rms_norm(q, w["q_norm"], c.eps), at, r, parts)
        k, v = _keys_values(y, w, r, parts)
        k = _rotate(k, at, r, parts)
        o = _attend(q, k, v, contexts[i], start, i, r, parts)
        x = x + _times(o, w["o"])
        z = ops.rms_norm(x, w["ffn_norm"], c.eps)
        x = x + _times(ops.silu(_times(z, w["gate"])) * _times(z, w["up"]), w["down"])
    rows = x[:, : size - 1] if r.slot_shift else x[:, 1:]
    hidden = ops.rms_norm(rows, parts.norm, c.eps)
    if r.head == "empty":
        return np.zeros((n, size - 1, len(parts.embed)), np.float32)
    table = parts.embed if r.head == "embedding" else parts.head
    return _times(hidden, table)


def _times(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """x [..., K] times weight [R, K] transposed, as one product: numpy would make one per block."""
    flat: np.ndarray = x.reshape(-1, x.shape[-1]) @ weight.T
    return flat.reshape(*x.shape[:-1], -1)


def _mask_row(parts: Parts, r: Reading) -> np.ndarray:
    if r.mask_row == "zero":
        return np.zeros_like(parts.mask)
    return parts.embed.mean(0) if r.mask_row == "mean" else parts.mask


def _contexts(parts: Parts, r: Reading, text: Text) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per layer, keys and values of every row of the text."""
    c = parts.config
    last = max(text.residuals)
    taps = []
    for tap in r.taps:
        rows = text.residuals[tap]
        if r.final_tap_normed and tap == last:
            rows = ops.rms_norm(rows, parts.final_norm, parts.final_eps)
        taps.append(rows)
    fused = ops.rms_norm(np.concatenate(taps, -1) @ parts.fc.T, parts.hidden_norm, c.eps)
    at = np.arange(len(fused)) + r.context_shift
    out = []
    for w in parts.layers:
        rows = ops.rms_norm(fused, w["attn_norm"], c.eps) if r.context_norm else fused
        k, v = _keys_values(rows, w, r, parts)
        out.append((_rotate(k, at, r, parts), v))
    return out


def _keys_values(
    rows: np.ndarray, w: dict[str, np.ndarray], r: Reading, parts: Parts
) -> tuple[np.ndarray, np.ndarray]:
    c = parts.config
    k_proj, v_proj = (w["v"], w["k"]) if r.swapped_kv else (w["k"], w["v"])
    shape = (*rows.shape[:-1], c.kv_heads, c.head_dim)
    if r.mixed_heads:
        mixed = (*rows.shape[:-1], c.head_dim, c.kv_heads)
        k, v = (np.swapaxes(_times(rows, p).reshape(mixed), -1, -2) for p in (k_proj, v_proj))
    else:
        k, v = (_times(rows, p).reshape(shape) for p in (k_proj, v_proj))
    return ops.rms_norm(k, w["k_norm"], c.eps), v * np.float32(r.value_scale)


def _rotate(x: np.ndarray, at: np.ndarray, r: Reading, parts: Parts) -> np.ndarray:
    """Rotary embedding of [..., heads, head_dim] at positions [...]."""
    half = r.rotary_dim // 2
    inv = float(r.theta) ** (-np.arange(half) * 2.0 / r.rotary_dim)
    if parts.config.yarn is not None:
        inv = parts.config.yarn.frequencies(inv, r.theta)
    if r.max_position is not None:
        at = np.minimum(at, r.max_position - 1)
    angle = at[..., None, None] * inv
    length = 1.0 if parts.config.yarn is None else parts.config.yarn.attention_factor
    cos, sin = ((f(angle) * length).astype(np.float32) for f in (np.cos, np.sin))
    out = x.copy()
    if r.interleaved_rope:
        first, second = slice(0, r.rotary_dim, 2), slice(1, r.rotary_dim, 2)
    else:
        first, second = slice(0, half), slice(half, r.rotary_dim)
    a, b = x[..., first], x[..., second]
    out[..., first], out[..., second] = a * cos - b * sin, b * cos + a * sin
    return out


def _attend(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    context: tuple[np.ndarray, np.ndarray],
    start: np.ndarray,
    layer: int,
    r: Reading,
    parts: Parts,
) -> np.ndarray:
    """One softmax over context, block, padding and sink: [N, B, heads * head_dim]."""
    n, size, heads, d = q.shape
    group = heads // k.shape[2]
    far_k, far_v = (np.repeat(t, group, 1).transpose(1, 0, 2) for t in context)
    near_k, near_v = (np.repeat(t, group, 2).transpose(0, 2, 1, 3) for t in (k, v))
    flat = q.transpose(2, 0, 1, 3).reshape(heads, n * size, d)
    far = (flat @ far_k.transpose(0, 2, 1)).reshape(heads, n, size, -1) * d**-0.5
    near = q.transpose(0, 2, 1, 3) @ near_k.transpose(0, 1, 3, 2) * d**-0.5
    near = near.transpose(1, 0, 2, 3)
    at = np.arange(far.shape[-1])
    seen = at < start[:, None, None] + int(r.includes_anchor)
    seen = np.broadcast_to(seen & (at >= r.context_lost), (n, size, len(at)))
    window = r.windows[layer]
    if window is not None:
        query = start[:, None, None] + np.arange(size)[None, :, None]
        seen = seen & (query - at < window)
        near = _hide_near(near, window)
    if r.causal[layer]:
        near = np.where(np.tril(np.ones((size, size), bool)), near, -np.inf)
    far = np.where(seen, far, -np.inf)
    peak = np.maximum(far.max(-1, initial=-1e30), near.max(-1))[..., None]
    far, near = np.exp(far - peak), np.exp(near - peak)
    total = far.sum(-1, keepdims=True) + near.sum(-1, keepdims=True)
    if r.sinks != "none" and "sinks" in parts.layers[layer]:
        sinks = parts.layers[layer]["sinks"]
        sinks = np.roll(sinks, heads // 2) if r.sinks == "rolled" else sinks
        total = total + np.exp(sinks[:, None, None, None] - peak)
    if r.overhang > 1:
        padding = -(start + size) % r.overhang
        total = total + padding[None, :, None, None] * np.exp(-peak)
    out = (far.reshape(heads, n * size, -1) @ far_v).reshape(heads, n, size, d)
    out = out + (near.transpose(1, 0, 2, 3) @ near_v).transpose(1, 0, 2, 3)
    return (out / total).transpose(1, 2, 0, 3).reshape(n, size, heads * d)


def _hide_near(near: np.ndarray, window: int) -> np.ndarray:
    row = np.arange(near.shape[-1])
    return np.where(np.abs(row[:, None] - row) < window, near, -np.inf)
