"""Ops that act on each row alone: embedding, norm, taps and the output head."""

from __future__ import annotations

import numpy as np


def embed(table: np.ndarray, token_ids: np.ndarray) -> np.ndarray:
    """Rows of the embedding table, unscaled: table [V, H], token_ids [T] -> [T, H]."""
    return table[np.asarray(token_ids)]


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """Compute x / sqrt(mean(x^2) + eps) * weight over the last axis: x [..., H], weight [H]."""
    return x / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + eps) * weight


def tap(residuals: list[np.ndarray], layer_ids: list[int]) -> np.ndarray:
    """Concatenate the residual stream after the named layers.

    Parameters
    ----------
    residuals : per decoder layer, the residual [T, H] after both of its sub-layers; for the last
        layer that is before the final norm.
    layer_ids : 0-based layer indices, concatenated in this order.

    Returns
    -------
    [T, len(layer_ids) * H]
    """
    return np.concatenate([residuals[i] for i in layer_ids], axis=-1)


def lm_head(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Logits without cap or scale: x [T, H] (already normed), weight [V, H] -> [T, V]."""
    return x @ weight.T
