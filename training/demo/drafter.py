"""The DFlash drafter: taps -> context keys and values; anchor + masks -> a block of tokens.

One set of functions serves training (many anchors per sequence) and decoding (one).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from training.demo.attention import rms_norm, rotary_table, rotate
from training.demo.preset import DrafterConfig
from training.demo.target import Weights, layer_weights


def init_drafter(cfg: DrafterConfig, target_hidden: int, seed: int) -> Weights:
    """Fresh float32 weights on the CPU."""
    gen = torch.Generator().manual_seed(seed)

    def normal(*shape: int, std: float) -> Tensor:
        return torch.randn(*shape, generator=gen) * std

    d = cfg.hidden
    fan, out = d**-0.5, d**-0.5 / (2 * cfg.layers) ** 0.5
    wide = len(cfg.taps) * target_hidden
    w: Weights = {
        "fc": normal(d, wide, std=wide**-0.5),
        "hidden_norm": torch.ones(d),
        "norm": torch.ones(d),
        "mask_embedding": normal(d, std=0.1),
    }
    for i in range(cfg.layers):
        p = f"{i}."
        w[p + "in_norm"], w[p + "post_norm"] = torch.ones(d), torch.ones(d)
        w[p + "q"] = normal(cfg.heads * cfg.head_dim, d, std=fan)
        w[p + "k"] = normal(cfg.kv_heads * cfg.head_dim, d, std=fan)
        w[p + "v"] = normal(cfg.kv_heads * cfg.head_dim, d, std=fan)
        w[p + "o"] = normal(d, cfg.heads * cfg.head_dim, std=out)
        w[p + "q_norm"], w[p + "k_norm"] = torch.ones(cfg.head_dim), torch.ones(cfg.head_dim)
        w[p + "sink"] = torch.zeros(cfg.heads)
        w[p + "gate"], w[p + "up"] = normal(cfg.inter, d, std=fan), normal(cfg.inter, d, std=fan)
        w[p + "down"] = normal(d, cfg.inter, std=out)
    return w


def rotary(cfg: DrafterConfig, positions: int, device: torch.device) -> Tensor:
    """Rotary table of the drafter, float32 [2, positions, rotary_dim / 2]."""
    return rotary_table(positions, cfg.rotary_dim, cfg.rope_theta, device)


def _key_value(
    cfg: DrafterConfig, w: Weights, rows: Tensor, table: Tensor
) -> tuple[Tensor, Tensor]:
    """Keys (normed, rotated) and scaled values: [..., kv_heads, head_dim] each."""
    shape = (*rows.shape[:-1], cfg.kv_heads, cfg.head_dim)
    k = rms_norm((rows @ w["k"].t()).view(shape), w["k_norm"], cfg.eps)
    return rotate(k, table), (rows @ w["v"].t()).view(shape) * cfg.value_scale


def context(
    cfg: DrafterConfig, w: Weights, taps: Tensor, table: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Per layer, context keys and values of tapped rows.

    taps BF16 [B, S, K * hidden]; table float32 [2, (B,) S, rotary_dim / 2] at their positions.
    """
    c = rms_norm(taps @ w["fc"].t(), w["hidden_norm"], cfg.eps)
    return [_key_value(cfg, layer_weights(w, i), c, table) for i in range(cfg.layers)]


def block_hidden(
    cfg: DrafterConfig,
    w: Weights,
    ctx: list[tuple[Tensor, Tensor]],
    anchor: Tensor,
    pos: Tensor,
    embed: Tensor,
    table: Tensor,
) -> Tensor:
    """Final normed rows of every block, BF16 [B, N, block, hidden].

    anchor, pos int64 [B, N]: the anchor tokens and their positions. Context position j is visible
    iff j < pos (strictly: the anchor has no feature yet) and within the window; the rows of a
    block see each other in both directions.
    """
    b, n = anchor.shape
    size, group = cfg.block, cfg.heads // cfg.kv_heads
    slot = torch.arange(size, device=anchor.device)
    x = w["mask_embedding"].expand(b, n, size - 1, cfg.hidden)
    x = torch.cat([F.embedding(anchor, embed).unsqueeze(2), x], 2).float()
    at = pos[..., None] + slot
    turn = table[:, at]
    key_at = torch.arange(ctx[0][0].shape[1], device=anchor.device)
    seen = (key_at < pos[..., None, None]) & (at[..., None] - key_at < cfg.window)
    for i in range(cfg.layers):
        lw = layer_weights(w, i)
        y = rms_norm(x, lw["in_norm"], cfg.eps)
        q = (y @ lw["q"].t()).view(b, n, size, cfg.heads, cfg.head_dim)
        q = rotate(rms_norm(q, lw["q_norm"], cfg.eps), turn)
        q = q.view(b, n, size, cfg.kv_heads, group, cfg.head_dim)
        k, v = _key_value(cfg, lw, y, turn)
        o = _attend(q, ctx[i], k, v, seen, lw["sink"])
        x = x + (o @ lw["o"].t()).float()
        z = rms_norm(x, lw["post_norm"], cfg.eps)
        x = x + ((F.silu(z @ lw["gate"].t()) * (z @ lw["up"].t())) @ lw["down"].t()).float()
    return rms_norm(x, w["norm"], cfg.eps)


def _attend(
    q: Tensor,
    ctx: tuple[Tensor, Tensor],
    k: Tensor,
    v: Tensor,
    seen: Tensor,
    sink: Tensor,
) -> Tensor:
    """One softmax over context keys, the block's own keys and the sink."""
    b, n, size, t, g, d = q.shape
    ctx_k, ctx_v = ctx
    length = ctx_k.shape[1]
    flat = q.permute(0, 3, 4, 1, 2, 5).reshape(b, t, g * n * size, d)
    far = (flat @ ctx_k.permute(0, 2, 3, 1)).float().view(b, t, g, n, size, length) * d**-0.5
    # Not -inf: a block without context (an unused anchor at 0) must not make NaN gradients.
    far = far.masked_fill(~seen[:, None, None], -1e30)
    own = q.permute(0, 1, 3, 4, 2, 5).reshape(b, n, t, g * size, d)
    near = (own @ k.permute(0, 1, 3, 4, 2)).float().view(b, n, t, g, size, size) * d**-0.5
    near = near.permute(0, 2, 3, 1, 4, 5)
    lse = torch.logaddexp(
        torch.logsumexp(far, -1, keepdim=True), torch.logsumexp(near, -1, keepdim=True)
    )
    lse = torch.logaddexp(lse, sink.float().view(1, t, g, 1, 1, 1))
    far, near = torch.exp(far - lse).to(v.dtype), torch.exp(near - lse).to(v.dtype)
    out_far = far.view(b, t, g * n * size, length) @ ctx_v.transpose(1, 2)
    out_far = out_far.view(b, t, g, n, size, d).permute(0, 3, 4, 1, 2, 5)
    near = near.permute(0, 3, 1, 2, 4, 5).reshape(b, n, t, g * size, size)
    out_near = (near @ v.transpose(2, 3)).view(b, n, t, g, size, d).permute(0, 1, 4, 2, 3, 5)
    return (out_far + out_near).reshape(b, n, size, t * g * d)


def block_loss(
    cfg: DrafterConfig,
    w: Weights,
    taps: Tensor,
    tokens: Tensor,
    pos: Tensor,
    valid: Tensor,
    embed: Tensor,
    head: Tensor,
    table: Tensor,
) -> tuple[Tensor, Tensor]:
    """Weighted cross-entropy of all blocks and whether each draft was right.

    tokens int64 [B, S]; pos int64 [B, N] anchor positions; valid bool [B, N].
    Slot k predicts the token AT pos + k; its weight is exp(-(k - 1) / gamma).
    Returns (loss, correct float32 [B, N, block - 1], NaN where there is no label).
    """
    ctx = context(cfg, w, taps, table[:, : taps.shape[1]])
    anchor = tokens.gather(1, pos)
    h = block_hidden(cfg, w, ctx, anchor, pos, embed, table)[:, :, 1:]
    k = torch.arange(1, cfg.block, device=pos.device)
    at = pos[..., None] + k
    there = valid[..., None] & (at < tokens.shape[1])
    labels = tokens.gather(1, at.clamp_max(tokens.shape[1] - 1).flatten(1)).view_as(at)
    logits = (h @ head.t()).float()
    loss = F.cross_entropy(logits.flatten(0, 2), labels.flatten(), reduction="none").view_as(at)
    weight = torch.exp(-(k - 1).float() / cfg.gamma) * there
    right = (logits.detach().argmax(-1) == labels).float().masked_fill(~there, float("nan"))
    return (loss * weight).sum() / weight.sum().clamp_min(1e-6), right
