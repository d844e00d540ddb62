"""Ops of the DFlash drafter (dflash_spec 1.2, 1.3, 1.6; mimo_spec 4.4)."""

from __future__ import annotations

import numpy as np

from kilotok.reference.ops.attention import Yarn, masked_attention, rope, value_scale
from kilotok.reference.ops.rows import rms_norm


def draft_fc(taps: np.ndarray, fc: np.ndarray, hidden_norm: np.ndarray, eps: float) -> np.ndarray:
    """Fuse the taps of committed rows: project, then norm.

    taps [T, K * H], fc [H, K * H], hidden_norm [H] -> [T, H].
    """
    return rms_norm(taps @ fc.T, hidden_norm, eps)


def draft_context(
    c: np.ndarray,
    positions: np.ndarray,
    k_proj: np.ndarray,
    v_proj: np.ndarray,
    k_norm: np.ndarray,
    eps: float,
    theta: float,
    rotary_dim: int,
    v_scale: float,
    yarn: Yarn | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Keys and values of committed rows in one draft layer.

    A pure function of each row and its position, so appending equals recomputing. ``c`` is the
    output of `draft_fc`, used directly: the layer's input norm is not applied to it.

    Parameters
    ----------
    c : [T, H]; positions : absolute [T]; k_proj : [kv_heads * d, H]; v_proj : [kv_heads * d, H];
    k_norm : [d], applied per head before rope.

    Returns
    -------
    k [T, kv_heads, d], v [T, kv_heads, d]
    """
    k, v = _keys_values(c, k_proj, v_proj, k_norm, eps, v_scale)
    return rope(k, positions, theta, rotary_dim, yarn), v


def draft_embed(
    table: np.ndarray, mask_embedding: np.ndarray, anchor: int, size: int
) -> np.ndarray:
    """Input of a block: the anchor's row of the target's table, then masks -> [size, H]."""
    return np.stack([table[anchor]] + [mask_embedding] * (size - 1))


def draft_qkv(
    x: np.ndarray,
    q_proj: np.ndarray,
    k_proj: np.ndarray,
    v_proj: np.ndarray,
    q_norm: np.ndarray,
    k_norm: np.ndarray,
    eps: float,
    v_scale: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries, keys and scaled values of block rows, q and k normed per head, not yet rotated.

    x [T, H] (already normed) -> q [T, heads, d], k [T, kv_heads, d], v [T, kv_heads, d].
    """
    q = (x @ q_proj.T).reshape(x.shape[0], -1, q_norm.shape[0])
    return rms_norm(q, q_norm, eps), *_keys_values(x, k_proj, v_proj, k_norm, eps, v_scale)


def _keys_values(
    x: np.ndarray,
    k_proj: np.ndarray,
    v_proj: np.ndarray,
    k_norm: np.ndarray,
    eps: float,
    v_scale: float,
) -> tuple[np.ndarray, np.ndarray]:
    k = (x @ k_proj.T).reshape(x.shape[0], -1, k_norm.shape[0])
    v = (x @ v_proj.T).reshape(k.shape)
    return rms_norm(k, k_norm, eps), value_scale(v, v_scale)


def draft_visible(
    q_pos: np.ndarray,
    k_pos: np.ndarray,
    start: int,
    window: int | None,
    causal: bool = False,
) -> np.ndarray:
    """Mask of a draft block (dflash_spec 1.6): bool [B, S].

    Keys at positions below ``start`` are context, the others are the block's own rows. ``window``
    counts the query itself and is None in full layers; ``causal`` hides later block rows.
    """
    distance = q_pos[:, None] - k_pos[None, :]
    visible = np.ones(distance.shape, bool) if window is None else np.abs(distance) < window
    if causal:
        visible = visible & ((k_pos[None, :] < start) | (distance >= 0))
    return visible


def draft_attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    q_pos: np.ndarray,
    k_pos: np.ndarray,
    start: int,
    window: int | None,
    sinks: np.ndarray | None,
    causal: bool = False,
) -> np.ndarray:
    """Attention of the block rows over context and block: shapes as in `masked_attention`."""
    visible = draft_visible(q_pos, k_pos, start, window, causal)
    return masked_attention(q, k, v, visible, sinks)


def draft_choose(logits: np.ndarray) -> list[int]:
    """Drafted tokens of masked rows, the largest logit, lowest index on ties: [T, V] -> T ids."""
    return [int(token) for token in logits.argmax(axis=-1)]
