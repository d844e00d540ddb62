"""Feed-forward ops: dense SwiGLU, routers and mixture-of-experts (mimo_spec 2.3, 2.5)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Logistic function without overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def silu(x: np.ndarray) -> np.ndarray:
    """Sigmoid-weighted identity, x * sigmoid(x), unclamped."""
    return x * sigmoid(x)


def silu_mul(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    """silu(gate) * up, element by element."""
    return silu(gate) * up


def clamped_swiglu(
    gate: np.ndarray, up: np.ndarray, alpha: float = 1.702, limit: float = 7.0
) -> np.ndarray:
    """g * sigmoid(alpha g) * (u + 1) with g = min(gate, limit) and u = up within +-limit."""
    gate, up = np.minimum(gate, limit), np.clip(up, -limit, limit)
    return gate * sigmoid(alpha * gate) * (up + 1)


def dense_up(x: np.ndarray, gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    """silu(gate x) * (up x): x [T, H], gate and up [F, H] -> [T, F]."""
    return silu_mul(x @ gate.T, x @ up.T)


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
    softmax: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Pick experts by sigmoid score plus bias and weigh them by the score alone.

    With ``softmax``, pick by logit plus bias and weigh by the softmax of that over the picked.

    Parameters
    ----------
    x : [T, H]; weight : [E, H]; correction_bias : [E].
    normalise : divide the chosen scores by (their sum + 1e-20).
    scaling_factor : routed_scaling_factor.

    Returns
    -------
    experts : int [T, top_k], by descending score + bias, ties to the lowest index.
    gates : [T, top_k] in the same order.
    """
    if softmax:
        logit = x @ weight.T + correction_bias
        experts = np.argsort(-logit, axis=-1, kind="stable")[:, :top_k]
        picked = np.take_along_axis(logit, experts, axis=-1)
        gates = np.exp(picked - picked[:, :1])
        return experts, gates / gates.sum(axis=-1, keepdims=True)
    score = sigmoid(x @ weight.T)
    experts = np.argsort(-(score + correction_bias), axis=-1, kind="stable")[:, :top_k]
    gates = np.take_along_axis(score, experts, axis=-1)
    if normalise:
        gates = gates / (gates.sum(axis=-1, keepdims=True) + 1e-20)
    return experts, gates * gates.dtype.type(scaling_factor)


def moe_up(
    x: np.ndarray,
    experts: np.ndarray,
    gate: np.ndarray,
    up: np.ndarray,
    bias: tuple[np.ndarray, np.ndarray] | None = None,
    activation: Callable[[np.ndarray, np.ndarray], np.ndarray] = silu_mul,
) -> np.ndarray:
    """Activations of every row in each of its experts.

    x [T, H], experts int [T, k], gate and up [E, F, H], their biases [E, F] -> [T, k, F].
    """
    out = np.empty((*experts.shape, gate.shape[1]), x.dtype)
    for e in np.unique(experts):
        row, slot = np.nonzero(experts == e)
        g, u = x[row] @ gate[e].T, x[row] @ up[e].T
        if bias is not None:
            g, u = g + bias[0][e], u + bias[1][e]
        out[row, slot] = activation(g, u)
    return out


def moe_down(
    hidden: np.ndarray,
    experts: np.ndarray,
    gates: np.ndarray,
    down: np.ndarray,
    bias: np.ndarray | None = None,
) -> np.ndarray:
    """Down projection per expert and gate-weighted sum.

    hidden [T, k, F], experts int [T, k], gates [T, k], down [E, H, F], bias [E, H] -> [T, H].
    """
    out = np.empty((*experts.shape, down.shape[1]), hidden.dtype)
    for e in np.unique(experts):
        row, slot = np.nonzero(experts == e)
        out[row, slot] = hidden[row, slot] @ down[e].T
        if bias is not None:
            out[row, slot] += bias[e]
    return (out * gates[..., None]).sum(axis=1)
