"""Muon for weight matrices, AdamW for the rest, with float32 masters and rounded working copies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor

_NS = ((3.4445, -4.7750, 2.0315),) * 5


def orthogonalize(g: Tensor) -> Tensor:
    """Newton-Schulz iteration towards the nearest orthogonal matrix, batched: [N, rows, cols]."""
    x = g.bfloat16() if g.is_cuda else g.float()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for a, b, c in _NS:
        s = x @ x.mT
        x = a * x + (b * s + c * (s @ s)) @ x
    return (x.mT if tall else x).float()


class Optimizer:
    """Updates masters from the gradients of their working copies.

    Parameters
    ----------
    masters : float32 tensors; updated in place
    work : masters -> working copies; called for every tensor after each step
    muon : decides by name which tensors of 2 or more axes use Muon
    """

    def __init__(
        self,
        masters: dict[str, Tensor],
        work: Callable[[str, Tensor], Tensor],
        muon: Callable[[str], bool],
        frozen: Callable[[str], bool] = lambda _: False,
        decay: float = 0.1,
    ) -> None:
        self.masters, self.work, self.decay = masters, work, decay
        names = [n for n in masters if not frozen(n)]
        self.groups: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for n in names:
            if masters[n].dim() >= 2 and muon(n):
                self.groups[tuple(masters[n].shape[-2:])].append(n)
        in_muon = {n for group in self.groups.values() for n in group}
        self.adam = [n for n in names if n not in in_muon]
        self.momentum = {n: torch.zeros_like(masters[n]) for n in in_muon}
        self.m = [torch.zeros_like(masters[n]) for n in self.adam]
        self.v = [torch.zeros_like(masters[n]) for n in self.adam]
        self.steps = 0
        self.weights: dict[str, Tensor] = {}
        for n in masters:
            w = work(n, masters[n])
            # A copy of its own even where work() returned the master itself (float32 weights).
            self.weights[n] = w.clone().requires_grad_(n in in_muon or n in set(self.adam))

    def state(self) -> dict:
        """Moments and step count, for a checkpoint."""
        return {"momentum": self.momentum, "m": self.m, "v": self.v, "steps": self.steps}

    def load_state(self, state: dict) -> None:
        """Continue from what :meth:`state` returned."""
        for n, t in state["momentum"].items():
            self.momentum[n].copy_(t)
        for mine, theirs in ((self.m, state["m"]), (self.v, state["v"])):
            for a, b in zip(mine, theirs, strict=True):
                a.copy_(b)
        self.steps = state["steps"]

    @torch.no_grad()
    def step(self, muon_lr: float, adam_lr: float) -> None:
        """Update masters from the gradients, then the working copies; clears the gradients."""
        self.steps += 1
        for (rows, cols), names in self.groups.items():
            grads = [self.weights[n].grad.float() for n in names]
            moments = [self.momentum[n] for n in names]
            torch._foreach_mul_(moments, 0.95)
            torch._foreach_add_(moments, grads)
            # Nesterov look-ahead; experts are batches of matrices, so flatten to [N, rows, cols].
            update = torch._foreach_add(grads, moments, alpha=0.95)
            counts = [u.numel() // (rows * cols) for u in update]
            stacked = torch.cat([u.view(-1, rows, cols) for u in update])
            parts = orthogonalize(stacked).split(counts)
            scale = max(1.0, rows / cols) ** 0.5
            masters = [self.masters[n] for n in names]
            torch._foreach_mul_(masters, 1 - muon_lr * self.decay)
            torch._foreach_add_(
                masters,
                [p.view_as(m) for p, m in zip(parts, masters, strict=True)],
                alpha=-muon_lr * scale,
            )
        if self.adam:
            self._adam(adam_lr)
        for n, w in self.weights.items():
            if w.requires_grad:
                w.copy_(self.work(n, self.masters[n]))
                w.grad = None

    def _adam(self, lr: float, b1: float = 0.9, b2: float = 0.95) -> None:
        grads = [self.weights[n].grad.float() for n in self.adam]
        torch._foreach_lerp_(self.m, grads, 1 - b1)
        torch._foreach_mul_(self.v, b2)
        torch._foreach_addcmul_(self.v, grads, grads, 1 - b2)
        denominator = torch._foreach_div(self.v, 1 - b2**self.steps)
        torch._foreach_sqrt_(denominator)
        torch._foreach_add_(denominator, 1e-10)
        torch._foreach_addcdiv_(
            [self.masters[n] for n in self.adam],
            self.m,
            denominator,
            value=-lr / (1 - b1**self.steps),
        )
