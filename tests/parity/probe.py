"""One checkpoint seen by the engine and by the reference.

An op is put under test by silencing what surrounds it: with ``o_proj`` and ``down_proj`` zero the
residual after every layer is the embedding, so a tap shows exactly what the op of interest adds.
Taps cover all layers, and both sides read the same files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import tiny
from tiny._reference import reference

#: Largest error an engine op may show, relative to the largest magnitude expected.
TOLERANCE = 1e-4

#: Spacing of float32 at one.
EPSILON = float(np.finfo(np.float32).eps)

Edit = Callable[[dict[str, tiny.Stored], np.random.Generator], None]


def silence(*patterns: str) -> Edit:
    """Zero every tensor whose name matches one of the patterns."""

    def edit(tensors: dict[str, tiny.Stored], _rng: np.random.Generator) -> None:
        for name, stored in tensors.items():
            if any(re.search(p, name) for p in patterns) and "_scale" not in name:
                tensors[name] = replace(stored, data=np.zeros_like(stored.data))

    return edit


def pick_down(tensors: dict[str, tiny.Stored], _rng: np.random.Generator) -> None:
    """Make every F32 ``down_proj`` copy its inputs into the first columns of the residual."""
    for name, stored in tensors.items():
        if name.endswith("down_proj.weight"):
            tensors[name] = replace(stored, data=np.eye(*stored.data.shape, dtype=np.float32))


def close(got: np.ndarray, want: np.ndarray, what: str, limit: float = TOLERANCE) -> None:
    """Fail unless the largest error is within the limit, relative to the largest magnitude."""
    assert got.shape == want.shape, f"{what}: shape {got.shape}, expected {want.shape}"
    assert np.isfinite(got).all(), f"{what}: not finite"
    error = np.abs(got - want).max() / max(np.abs(want).max(), 1e-30)
    assert error <= limit, f"{what}: relative error {error:.2e} exceeds {limit:.0e}"


class Probe:
    """Both sides of one checkpoint."""

    def __init__(self, core: object, path: Path) -> None:
        self.core, self.path = core, path
        self.reference = reference.open_target(path)
        self.drafter = reference.Drafter(path / "dflash", self.reference)

    def engine(self, tokens: Sequence[int], **options: object) -> tuple[np.ndarray, np.ndarray]:
        """Logits [T, V] and residuals [T, layers, H] of the engine."""
        out = self.core.debug_forward(str(self.path), list(tokens), **options)
        logits, taps = (np.frombuffer(out[key], np.float32) for key in ("logits", "taps"))
        shape = (len(tokens), -1, self.reference.config.hidden_size)
        return logits.reshape(len(tokens), -1), taps.reshape(shape)

    def expected(self, tokens: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Logits and residuals of the reference, shaped like `engine`'s."""
        forward = self.reference.forward(tokens)
        return forward.logits, np.stack(forward.residuals, axis=1)

    def engine_draft(
        self, tokens: Sequence[int], anchor: int, size: int, **options: object
    ) -> tuple[np.ndarray, list[int]]:
        """Draft logits [size - 1, V] and drafted tokens of the engine."""
        out = self.core.debug_draft(str(self.path), list(tokens), anchor, size - 1, **options)
        logits = np.frombuffer(out["logits"], np.float32).reshape(size - 1, -1)
        return logits, list(out["tokens"])

    def expected_draft(self, tokens: Sequence[int], anchor: int, size: int) -> np.ndarray:
        """Draft logits of the reference."""
        taps = self.reference.forward(tokens).taps(self.drafter.config.target_layer_ids)
        return self.drafter.block(self.drafter.extend(self.drafter.empty(), taps), anchor, size)

    def check(self, tokens: Sequence[int], limit: float = TOLERANCE, **options: object) -> None:
        """Compare logits and the residual after every layer."""
        (logits, residuals), (want, states) = self.engine(tokens, **options), self.expected(tokens)
        start = self.reference.embedding[list(tokens)]
        for i in range(states.shape[1]):
            # What the layers added, so that a large residual cannot hide a small op; the residual
            # itself is float32, so its own rounding is granted.
            added, state = states[:, i] - start, states[:, i]
            allowed = limit * np.abs(added).max() + 4 * EPSILON * (i + 1) * np.abs(state).max()
            error = np.abs(residuals[:, i] - state).max()
            assert error <= allowed, f"layer {i}: error {error:.2e} exceeds {allowed:.2e}"
        close(logits, want, "logits", limit)

    def check_draft(
        self, tokens: Sequence[int], anchor: int, size: int, limit: float = TOLERANCE, **options
    ) -> None:
        """Compare the logits of one drafted block and its argmax."""
        logits, drafts = self.engine_draft(tokens, anchor, size, **options)
        close(logits, self.expected_draft(tokens, anchor, size), "draft logits", limit)
        assert drafts == logits.argmax(axis=-1).tolist()


def margins(run: Callable[[], object], top_k: int) -> float:
    """Smallest lead of a selected expert over the best one left out, during ``run``."""
    leads, router = [np.inf], reference.ops.router

    def watched(x, weight, bias, k, *rest, softmax=False):
        score = x @ weight.T if softmax else reference.ops.sigmoid(x @ weight.T)
        score = np.sort(score + bias, axis=-1)[:, ::-1]
        if k < score.shape[1]:
            leads.append(float((score[:, k - 1] - score[:, k]).min()))
        return router(x, weight, bias, k, *rest, softmax=softmax)

    reference.ops.router = watched
    try:
        run()
    finally:
        reference.ops.router = router
    return min(leads) if top_k else np.inf
