"""Feed-forward ops: dense SwiGLU, sigmoid router and mixture-of-experts (mimo_spec 2.3, 2.5)."""

from __future__ import annotations

import numpy as np


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Logistic function without overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def silu(x: np.ndarray) -> np.ndarray:
    """Sigmoid-weighted identity, x * sigmoid(x), unclamped."""
    return x * sigmoid(x)


def dense_up(x: np.ndarray, gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    """silu(gate x) * (up x): x [T, H], gate and up [F, H] -> [T, F]."""
    return silu(x @ gate.T) * (x @ up.T)


def dense_down(x: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Down projection: x [T, F], down [H, F] -> [T, H]."""
    return x @ down.T


def router(
    x: np.ndarray,
    weight: np.ndarray,
    correction_bias: np.ndarray,
    top_k: int,
    normalise: bool = True,
    scaling_factor: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Pick experts by sigmoid score plus bias and weigh them by the score alone.

    Parameters
    ----------
    x : [T, H]; weight : [E, H]; correction_bias : [E], used for selection only.
    normalise : divide the chosen scores by (their sum + 1e-20).
    scaling_factor : routed_scaling_factor.

    Returns
    -------
    experts : int [T, top_k], by descending score + bias, ties to the lowest index.
    gates : [T, top_k] in the same order.
    """
    score = sigmoid(x @ weight.T)
    experts = np.argsort(-(score + correction_bias), axis=-1, kind="stable")[:, :top_k]
    gates = np.take_along_axis(score, experts, axis=-1)
    if normalise:
        gates = gates / (gates.sum(axis=-1, keepdims=True) + 1e-20)
    return experts, gates * gates.dtype.type(scaling_factor)


def moe_up(x: np.ndarray, experts: np.ndarray, gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    """SwiGLU of every row in each of its experts.

    x [T, H], experts int [T, k], gate and up [E, F, H] -> [T, k, F].
    """
    out = np.empty((*experts.shape, gate.shape[1]), x.dtype)
    for e in np.unique(experts):
        row, slot = np.nonzero(experts == e)
        out[row, slot] = dense_up(x[row], gate[e], up[e])
    return out


def moe_down(
    hidden: np.ndarray, experts: np.ndarray, gates: np.ndarray, down: np.ndarray
) -> np.ndarray:
    """Down projection per expert and gate-weighted sum.

    hidden [T, k, F], experts int [T, k], gates [T, k], down [E, H, F] -> [T, H].
    """
    out = np.empty((*experts.shape, down.shape[1]), hidden.dtype)
    for e in np.unique(experts):
        row, slot = np.nonzero(experts == e)
        out[row, slot] = hidden[row, slot] @ down[e].T
    return (out * gates[..., None]).sum(axis=1)
