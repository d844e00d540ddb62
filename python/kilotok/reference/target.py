"""What every target model does: rows from scratch through its layers, and plain decoding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kilotok.reference import ops
from kilotok.reference.checkpoint import Checkpoint


@dataclass(frozen=True)
class Forward:
    """Result of a forward pass.

    Attributes
    ----------
    logits : [T, V]
    residuals : per layer the residual stream [T, H] after that layer (before the final norm).
    """

    logits: np.ndarray
    residuals: list[np.ndarray]

    def taps(self, layer_ids: Sequence[int]) -> np.ndarray:
        """Concatenated taps [T, len(layer_ids) * H]."""
        return ops.tap(self.residuals, list(layer_ids))


class Target(ABC):
    """A target model; families say what their attention and feed-forward compute.

    Attributes
    ----------
    config : the family's; has ``layers``, ``eps``, ``hidden_size`` and ``vocab_size``.
    layers : weights by name, per layer; ``attn_norm`` and ``ffn_norm`` among them.
    """

    checkpoint: Checkpoint
    config: Any
    dtype: type
    embedding: np.ndarray
    head: np.ndarray
    norm: np.ndarray
    layers: list[dict[str, np.ndarray]]

    @abstractmethod
    def __init__(self, path: str | Path, dtype: type = np.float64) -> None: ...

    def _array(self, name: str, chunks: int = 1) -> np.ndarray:
        return self.checkpoint.array(name, chunks).astype(self.dtype)

    @abstractmethod
    def attention(self, a: np.ndarray, layer: Any, w: dict[str, np.ndarray]) -> np.ndarray:
        """Attention of normed rows [T, H] at positions 0..T-1, before the residual add."""

    @abstractmethod
    def ffn(self, m: np.ndarray, layer: Any, w: dict[str, np.ndarray]) -> np.ndarray:
        """Dense or expert sub-layer on normed rows [T, H], before the residual add."""

    def forward(self, token_ids: Sequence[int]) -> Forward:
        """Logits and residuals of every row of one sequence."""
        x = ops.embed(self.embedding, np.asarray(token_ids, np.int64))
        residuals = []
        for layer, w in zip(self.config.layers, self.layers, strict=True):
            x = x + self.attention(ops.rms_norm(x, w["attn_norm"], self.config.eps), layer, w)
            x = x + self.ffn(ops.rms_norm(x, w["ffn_norm"], self.config.eps), layer, w)
            residuals.append(x)
        return Forward(
            ops.lm_head(ops.rms_norm(x, self.norm, self.config.eps), self.head), residuals
        )

    def generate(
        self, prompt: Sequence[int], tokens: int, params: ops.Sampling | None = None
    ) -> list[int]:
        """Plain decoding: one forward pass of the whole sequence per token, no stop tokens."""
        output: list[int] = []
        for _ in range(tokens):
            row = self.forward([*prompt, *output]).logits[-1]
            output.append(ops.choose(row, params, len(prompt) + len(output), prompt, output))
        return output
