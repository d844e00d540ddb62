"""Attention ops of the target model (mimo_spec 2.2): projections, rotary, full and sliding."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Yarn:
    """YaRN (arXiv 2309.00071): frequencies stretched for positions beyond the trained ones.

    Attributes
    ----------
    factor, original : stretch, and positions before it.
    beta_fast, beta_slow : turns within ``original`` above which a pair keeps its frequency, and
        below which it is divided by ``factor``.
    truncate : round the ends of the ramp outwards to whole pairs.
    attention_factor : on cosines and sines; 0.1 ln(factor) + 1 unless a checkpoint says otherwise.
    """

    factor: float
    original: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0

    @classmethod
    def read(cls, config: dict) -> Yarn | None:
        """From ``rope_scaling`` or ``rope_parameters``; None where frequencies are not scaled."""
        for key in ("rope_scaling", "rope_parameters"):
            rope = config.get(key) or {}
            if rope.get("rope_type", rope.get("type")) == "yarn":
                return cls(
                    factor=rope["factor"],
                    original=rope["original_max_position_embeddings"],
                    beta_fast=rope.get("beta_fast", 32.0),
                    beta_slow=rope.get("beta_slow", 1.0),
                    truncate=rope.get("truncate", True),
                    attention_factor=rope.get("attention_factor")
                    or 0.1 * math.log(rope["factor"]) + 1,
                )
        return None

    def frequencies(self, plain: np.ndarray, theta: float) -> np.ndarray:
        """Stretch the frequencies [pairs] of a plain rotary embedding of base ``theta``."""
        pairs = plain.shape[0]

        def pair(turns: float) -> float:
            return pairs * math.log(self.original / (turns * 2 * math.pi)) / math.log(theta)

        low, high = pair(self.beta_fast), pair(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, 2 * pairs - 1)
        if low == high:
            high += 0.001
        slow = np.clip((np.arange(pairs) - low) / (high - low), 0, 1)
        return plain / self.factor * slow + plain * (1 - slow)


def qkv(
    x: np.ndarray,
    weight: np.ndarray,
    heads: int,
    kv_heads: int,
    head_dim: int,
    v_head_dim: int,
    chunks: int = 1,
    bias: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Project and de-interleave.

    The rows of ``weight`` are ``chunks`` equal chunks ``[Q_t | K_t | V_t]`` of heads / chunks
    query, kv_heads / chunks key and kv_heads / chunks value heads. One chunk is the plain
    ``[Q | K | V]`` that separate q/k/v projections stack to.

    Parameters
    ----------
    x : [T, H]
    weight : [heads * head_dim + kv_heads * (head_dim + v_head_dim), H]
    bias : one per row of ``weight``.

    Returns
    -------
    q [T, heads, head_dim], k [T, kv_heads, head_dim], v [T, kv_heads, v_head_dim]
    """
    rows = x.shape[0]
    y = x @ weight.T if bias is None else x @ weight.T + bias
    y = y.reshape(rows, chunks, -1)
    q_rows = heads // chunks * head_dim
    k_rows = kv_heads // chunks * head_dim
    q, k, v = np.split(y, [q_rows, q_rows + k_rows], axis=-1)
    return (
        q.reshape(rows, heads, head_dim),
        k.reshape(rows, kv_heads, head_dim),
        v.reshape(rows, kv_heads, v_head_dim),
    )


def rope(
    x: np.ndarray,
    positions: np.ndarray,
    theta: float,
    rotary_dim: int,
    yarn: Yarn | None = None,
) -> np.ndarray:
    """Rotate the first ``rotary_dim`` dims of every head, NeoX pairs (i, i + rotary_dim / 2).

    The angle of pair i at position p is ``p * theta ** (-2 i / rotary_dim)``, computed in float64;
    the remaining dims pass through. x [T, heads, dim], positions [T] (absolute). ``yarn`` changes
    the frequencies and the length of what is rotated.
    """
    half = rotary_dim // 2
    inv_freq = float(theta) ** (-np.arange(half, dtype=np.float64) * 2 / rotary_dim)
    length = 1.0
    if yarn is not None:
        inv_freq, length = yarn.frequencies(inv_freq, theta), yarn.attention_factor
    angle = np.asarray(positions, np.float64)[:, None, None] * inv_freq
    cos, sin = (np.cos(angle) * length).astype(x.dtype), (np.sin(angle) * length).astype(x.dtype)
    a, b, rest = x[..., :half], x[..., half:rotary_dim], x[..., rotary_dim:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


def value_scale(v: np.ndarray, scale: float) -> np.ndarray:
    """Scale values before they enter the cache (attention_value_scale)."""
    return v * v.dtype.type(scale)


def kv_append(
    keys: np.ndarray, values: np.ndarray, k: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Cache rows followed by new rows, so that row i is position i: [S, ...] + [T, ...]."""
    return np.concatenate([keys, k]), np.concatenate([values, v])


def masked_attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    visible: np.ndarray,
    sinks: np.ndarray | None = None,
) -> np.ndarray:
    """Grouped-query softmax attention under an explicit mask.

    Parameters
    ----------
    q : [T, heads, d]; k : [S, kv_heads, d]; v : [S, kv_heads, dv]
    visible : bool [T, S]
    sinks : raw logit per head [heads]; joins the softmax denominator and adds no value. It is not
        scaled by 1 / sqrt(d).

    Returns
    -------
    [T, heads * dv]
    """
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    # Heads first, so that each head is one matrix product.
    q, k, v = (x.transpose(1, 0, 2) for x in (q, k, v))
    score = q @ k.transpose(0, 2, 1) * q.dtype.type(q.shape[-1] ** -0.5)
    score = np.where(visible, score, -np.inf)
    peak = score.max(axis=-1, keepdims=True)
    if sinks is not None:
        sink = sinks.astype(score.dtype)[:, None, None]
        peak = np.maximum(peak, sink)
    weight = np.exp(score - peak)
    total = weight.sum(axis=-1, keepdims=True)
    if sinks is not None:
        total = total + np.exp(sink - peak)
    out = (weight / total) @ v
    return out.transpose(1, 0, 2).reshape(q.shape[1], -1)


def attention_full(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    q_pos: np.ndarray,
    k_pos: np.ndarray,
    sinks: np.ndarray | None = None,
) -> np.ndarray:
    """Causal attention over everything up to the query; shapes as in `masked_attention`."""
    return masked_attention(q, k, v, k_pos[None, :] <= q_pos[:, None], sinks)


def attention_swa(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    q_pos: np.ndarray,
    k_pos: np.ndarray,
    window: int,
    sinks: np.ndarray | None,
) -> np.ndarray:
    """Causal attention over ``window`` keys, the query's own included: 0 <= q - k < window."""
    distance = q_pos[:, None] - k_pos[None, :]
    return masked_attention(q, k, v, (distance >= 0) & (distance < window), sinks)


def o_proj(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """Output projection: x [T, heads * dv], weight [H, heads * dv], bias [H] -> [T, H]."""
    y = x @ weight.T
    return y if bias is None else y + bias
