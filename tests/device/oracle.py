"""What the ops have to give, in float64."""

from __future__ import annotations

import numpy as np

#: Largest relative error of rounding to bf16.
BF16 = 2.0**-8


def to_bf16(x):
    """Round f32 to bf16 bits, ties to even."""
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bf16(bits):
    """Widen bf16 bits to f64."""
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def rotations(positions, frequencies, magnitude=1.0):
    """Cosines and sines [rows, pairs, 2] f32."""
    angles = np.asarray(positions, np.float64)[:, None] * frequencies
    return (magnitude * np.stack([np.cos(angles), np.sin(angles)], -1)).astype(np.float32)


def rotate(heads, rotation):
    """Rotate pairs (i, i + pairs) of ``heads`` [..., dim] by ``rotation`` [pairs, 2]."""
    pairs = rotation.shape[0]
    out = np.array(heads, np.float64)
    a, b = out[..., :pairs].copy(), out[..., pairs : 2 * pairs].copy()
    cos, sin = rotation[:, 0].astype(np.float64), rotation[:, 1].astype(np.float64)
    out[..., :pairs] = a * cos - b * sin
    out[..., pairs : 2 * pairs] = b * cos + a * sin
    return out


def rms_norm(heads, weights, eps):
    """Norm ``heads`` [..., dim]."""
    heads = np.asarray(heads, np.float64)
    factor = 1 / np.sqrt(np.mean(heads**2, -1, keepdims=True) + eps)
    return heads * factor * np.asarray(weights, np.float64)


def attend(query, keys, values, scale, sink=None):
    """One query head over ``keys`` [n, qk], ``values`` [n, v].

    Returns
    -------
    (out, magnitude)
        The weighted mean of the values, and that of their absolute values.
    """
    scores = keys @ query * scale
    top = max(scores.max(), -np.inf if sink is None else sink)
    weights = np.exp(scores - top)
    total = weights.sum() + (0 if sink is None else np.exp(sink - top))
    return weights @ values / total, weights @ np.abs(values) / total


def check_attention(out, want, magnitude):
    """Weights, queries and results are rounded to bf16, each once."""
    error = np.abs(out - want)
    bound = BF16 * (np.abs(want) + magnitude) + 1e-30
    assert np.all(error <= bound), (error / bound).max()
    # Rounding is unbiased: on average the errors are far smaller.
    assert error.mean() <= 0.4 * bound.mean()
