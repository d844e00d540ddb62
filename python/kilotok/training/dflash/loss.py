"""Losses of a block: cross-entropy weighted by how likely a slot is to be reached."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kilotok.training.dflash.model import Context, Weights, block_hidden, context
from kilotok.training.dflash.shape import DrafterShape

__all__ = ["Batch", "Weighting", "block_loss", "default_gamma", "slot_weights"]


@dataclass(frozen=True)
class Batch:
    """Texts with their taps, padded to one length S.

    Attributes
    ----------
    tokens : int64 [B, S]
    taps : BF16 [B, S, K * hidden]
    length : int64 [B]; what lies behind is padding.
    pos, valid : anchors, int64 and bool [B, N]; from `draw_anchors`.
    """

    tokens: Tensor
    taps: Tensor
    length: Tensor
    pos: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Weighting:
    """How slots count.

    Attributes
    ----------
    kind : ``decay``: exp(-(k - 1) / gamma) (arXiv 2602.06036); ``dpace``: how many later drafts
        survive through this slot, from the drafter's own probabilities (arXiv 2605.18810).
    gamma : decay length in slots.
    alpha : floor of a slot's survival in ``dpace``; at 1 only the number of later slots counts.
    """

    kind: str = "decay"
    gamma: float = 4.0
    alpha: float = 0.5


def default_gamma(block: int) -> float:
    """Decay lengths of the paper: 4 at block 8, 5 at 10, 7 at 16; a line between them."""
    return 4.0 + (block - 8) * 3.0 / 8.0 if block > 8 else max(1.0, block / 2)


def slot_weights(weighting: Weighting, losses: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of slots 1.., detached, and what their sum is divided by.

    losses float32 [..., block - 1] in nats; there bool, False where a slot has no label. The
    denominator (a scalar) is the sum of weights for ``decay`` and the number of labels for
    ``dpace``; it is to be summed over ranks and accumulation steps before dividing.
    """
    there_f = there.float()
    if weighting.kind == "decay":
        k = torch.arange(losses.shape[-1], device=losses.device, dtype=torch.float32)
        weight = torch.exp(-k / weighting.gamma) * there_f
        return weight, weight.sum()
    survive = (1 - weighting.alpha) * torch.exp(-losses.detach()) + weighting.alpha
    reach = torch.where(there, survive, torch.ones_like(survive)).cumprod(-1) * there_f
    weight = reach.flip(-1).cumsum(-1).flip(-1) * there_f
    return weight, there_f.sum()


def block_loss(
    shape: DrafterShape,
    w: Weights,
    batch: Batch,
    embed: Tensor,
    head: Tensor,
    table: Tensor,
    weighting: Weighting,
    chunk: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted cross-entropy of all blocks, not yet divided.

    Slot k predicts the token AT pos + k; slot 0, the anchor, predicts nothing.

    Parameters
    ----------
    embed, head : [vocab, hidden], the target's, frozen.
    table : rotary table of at least S + block positions.
    chunk : anchors at once; the rest is recomputed in the backward pass, so that attention and
        logits of a long text never exist whole. 0 takes all at once.

    Returns
    -------
    loss : float32 scalar, sum of weight times nats
    denominator : float32 scalar (see `slot_weights`)
    right : float32 [B, N, block - 1], 1 where the draft is the label, NaN where there is no label
    """
    ctx = context(shape, w, batch.taps, table[:, : batch.tokens.shape[1]])
    count = batch.pos.shape[1]
    if chunk <= 0 or chunk >= count:
        return _blocks(shape, w, ctx, batch, slice(0, count), embed, head, table, weighting)
    loss, total, right = torch.zeros((), device=embed.device), torch.zeros(()), []
    total = total.to(embed.device)
    for start in range(0, count, chunk):
        part = checkpoint(
            _blocks,
            shape,
            w,
            ctx,
            batch,
            slice(start, start + chunk),
            embed,
            head,
            table,
            weighting,
            use_reentrant=False,
        )
        loss, total = loss + part[0], total + part[1]
        right.append(part[2])
    return loss, total, torch.cat(right, 1)


def _blocks(
    shape: DrafterShape,
    w: Weights,
    ctx: Context,
    batch: Batch,
    anchors: slice,
    embed: Tensor,
    head: Tensor,
    table: Tensor,
    weighting: Weighting,
) -> tuple[Tensor, Tensor, Tensor]:
    pos, valid = batch.pos[:, anchors], batch.valid[:, anchors]
    h = block_hidden(shape, w, ctx, batch.tokens.gather(1, pos), pos, embed, table)[:, :, 1:]
    at = pos[..., None] + torch.arange(1, shape.block, device=pos.device)
    there = valid[..., None] & (at < batch.length[:, None, None])
    last = batch.tokens.shape[1] - 1
    labels = batch.tokens.gather(1, at.clamp_max(last).flatten(1)).view_as(at)
    logits = (h @ head.t()).float()
    losses = F.cross_entropy(logits.flatten(0, 2), labels.flatten(), reduction="none").view_as(at)
    weight, total = slot_weights(weighting, losses, there)
    right = (logits.detach().argmax(-1) == labels).float().masked_fill(~there, float("nan"))
    return (losses * weight).sum(), total, right
