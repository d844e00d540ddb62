"""Muon for matrices and AdamW for the rest, or AdamW for all, over float32 masters."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Optimizer", "Rates", "cosine", "orthogonalize"]

_NEWTON_SCHULZ = ((3.4445, -4.7750, 2.0315),) * 5


@dataclass(frozen=True)
class Rates:
    """Peak learning rates and decoupled weight decay."""

    muon: float = 0.01
    adam: float = 1e-3
    decay: float = 0.1


def cosine(progress: float, warmup: float = 0.04) -> float:
    """Factor on the peak rate at `progress` in [0, 1): linear warm-up, then half a cosine to 0."""
    if progress < warmup:
        return progress / warmup
    turn = torch.pi * (progress - warmup) / (1 - warmup)
    return float(0.5 * (1 + torch.cos(torch.tensor(turn, dtype=torch.float64))))


def orthogonalize(g: Tensor) -> Tensor:
    """Newton-Schulz iteration towards the nearest orthogonal matrix, batched: [N, rows, cols]."""
    x = g.bfloat16() if g.is_cuda else g.float()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for a, b, c in _NEWTON_SCHULZ:
        s = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(s, s, s, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).float()


def _wide(matrix: Tensor) -> Tensor:
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix


class Optimizer:
    """Masters, their moments, and the working copies that the model multiplies by.

    Parameters
    ----------
    masters : float32 tensors, updated in place.
    dtype : of the working copies.
    kind : ``muon`` (matrices by Muon, vectors by AdamW) or ``adamw``.
    """

    def __init__(
        self, masters: dict[str, Tensor], dtype: torch.dtype, kind: str, rates: Rates
    ) -> None:
        self.masters, self.rates = masters, rates
        self.groups: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for name, master in masters.items():
            if kind == "muon" and master.dim() == 2 and min(master.shape) > 1:
                self.groups[tuple(sorted(master.shape))].append(name)
        in_muon = {name for names in self.groups.values() for name in names}
        self.adam = [name for name in masters if name not in in_muon]
        self.momentum = {name: torch.zeros_like(masters[name]) for name in sorted(in_muon)}
        self.first = {name: torch.zeros_like(masters[name]) for name in self.adam}
        self.second = {name: torch.zeros_like(masters[name]) for name in self.adam}
        self.steps = 0
        self.weights = {n: m.to(dtype).clone().requires_grad_() for n, m in masters.items()}

    def state(self) -> dict[str, Any]:
        """Masters, moments and step count, for a checkpoint."""
        return {
            "masters": self.masters,
            "momentum": self.momentum,
            "first": self.first,
            "second": self.second,
            "steps": self.steps,
        }

    @torch.no_grad()
    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        for mine, theirs in (
            (self.masters, state["masters"]),
            (self.momentum, state["momentum"]),
            (self.first, state["first"]),
            (self.second, state["second"]),
        ):
            for name, tensor in mine.items():
                tensor.copy_(theirs[name])
        self.steps = state["steps"]
        for name, weight in self.weights.items():
            weight.copy_(self.masters[name])

    @torch.no_grad()
    def step(self, grads: dict[str, Tensor], factor: float, clip: float = 1.0) -> Tensor:
        """Update masters and working copies; returns the norm of the gradients before clipping.

        grads float32 by name; `factor` scales the peak rates.
        """
        self.steps += 1
        values = list(grads.values())
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(values)))
        torch._foreach_mul_(values, (clip / (norm + 1e-6)).clamp_max(1.0))
        for names in self.groups.values():
            moments = [self.momentum[n] for n in names]
            torch._foreach_mul_(moments, 0.95)
            torch._foreach_add_(moments, [grads[n] for n in names])
            # Nesterov's look-ahead; matrices of one shape, laid wide, are turned as one batch.
            update = torch._foreach_add([grads[n] for n in names], moments, alpha=0.95)
            turned = orthogonalize(torch.stack([_wide(u) for u in update])).unbind()
            masters = [self.masters[n] for n in names]
            rate = self.rates.muon * factor
            torch._foreach_mul_(masters, 1 - rate * self.rates.decay)
            for master, step in zip(masters, turned, strict=True):
                rows, cols = master.shape
                scale = max(1.0, rows / cols) ** 0.5
                master.add_(step.mT if rows > cols else step, alpha=-rate * scale)
        self._adam(grads, self.rates.adam * factor)
        torch._foreach_copy_(list(self.weights.values()), [self.masters[n] for n in self.weights])
        return norm

    def _adam(
        self, grads: dict[str, Tensor], rate: float, b1: float = 0.9, b2: float = 0.95
    ) -> None:
        if not self.adam:
            return
        masters = [self.masters[n] for n in self.adam]
        first, second = list(self.first.values()), list(self.second.values())
        mine = [grads[n] for n in self.adam]
        torch._foreach_lerp_(first, mine, 1 - b1)
        torch._foreach_mul_(second, b2)
        torch._foreach_addcmul_(second, mine, mine, 1 - b2)
        root = torch._foreach_div(second, 1 - b2**self.steps)
        torch._foreach_sqrt_(root)
        torch._foreach_add_(root, 1e-10)
        matrices = [m for m in masters if m.dim() > 1]
        if matrices:
            torch._foreach_mul_(matrices, 1 - rate * self.rates.decay)
        torch._foreach_addcdiv_(masters, first, root, value=-rate / (1 - b1**self.steps))
