"""Which positions of a text become anchors of training blocks."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["draw_anchors"]


def draw_anchors(
    prompt: Tensor, length: Tensor, count: int, gen: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Distinct random anchor positions in the answer of every text.

    Parameters
    ----------
    prompt, length : int64 [B] on the CPU
        Tokens of the prompt, and of prompt and answer together.
    count : anchors per text at most.
    gen : CPU generator, the only source of randomness.

    Returns
    -------
    pos : int64 [B, N], within [prompt, length - 2] where usable
        An anchor is a generated token with at least one token behind it.
    valid : bool [B, N]
        False where a text has fewer positions than anchors.
    """
    size = int(length.max())
    at = torch.arange(size)
    usable = (at >= prompt[:, None]) & (at < length[:, None] - 1)
    score = torch.rand(len(prompt), size, generator=gen).masked_fill(~usable, -1.0)
    best, pos = score.topk(min(count, max(size - 1, 1)), dim=1)
    return torch.where(best >= 0, pos, 0), best >= 0
