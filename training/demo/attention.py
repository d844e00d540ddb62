"""Attention as the MiMo-V2 family does it: partial NeoX rotary, sliding windows, sinks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last axis; float32 statistics, result in weight's dtype."""
    x = x.float()
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return x.to(weight.dtype) * weight


def rotary_table(positions: int, dim: int, theta: float, device: torch.device) -> Tensor:
    """cos and sin of every angle; float32 [2, positions, dim // 2]."""
    inv = theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angle = torch.arange(positions, dtype=torch.float64)[:, None] * inv
    return torch.stack([angle.cos(), angle.sin()]).float().to(device)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the first dims of x; pairs are (i, i + dim/2) (NeoX).

    x is [..., heads, head_dim]; table is [2, ..., dim // 2], broadcast over heads.
    """
    half = table.shape[-1]
    cos, sin = table[0].unsqueeze(-2), table[1].unsqueeze(-2)
    a, b = x[..., :half].float(), x[..., half : 2 * half].float()
    turned = torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)
    return torch.cat([turned, x[..., 2 * half :]], -1)


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Full causal attention without sinks.

    q [B, S, T, G, d] (T kv heads of G query heads), k [B, S, T, d], v [B, S, T, dv].
    Returns [B, S, T, G, dv].
    """
    b, s, t, g, d = q.shape
    dv = v.shape[-1]
    k = k[:, :, :, None].expand(b, s, t, g, d).reshape(b, s, t * g, d).transpose(1, 2)
    # The fused kernels want one head size for k and v.
    v = F.pad(v, (0, d - dv))[:, :, :, None].expand(b, s, t, g, d)
    v = v.reshape(b, s, t * g, d).transpose(1, 2)
    out = F.scaled_dot_product_attention(
        q.reshape(b, s, t * g, d).transpose(1, 2), k, v, is_causal=True
    )
    return out.transpose(1, 2)[..., :dv].reshape(b, s, t, g, dv)


def windowed(q: Tensor, k: Tensor, v: Tensor, sink: Tensor, window: int) -> Tensor:
    """Causal attention over the last `window` keys (self included) with per-head sinks.

    Shapes as in :func:`causal`; sink is [T * G]. Queries go in blocks of `window`, which see
    their own block and the one before: nothing of size S x S is made.
    """
    b, s, t, g, d = q.shape
    pad = -s % window
    n = (s + pad) // window
    q, k, v = (F.pad(x, (0,) * (2 * (x.dim() - 2)) + (0, pad)) for x in (q, k, v))
    q = q.view(b, n, window, t, g, d).permute(0, 1, 3, 4, 2, 5).reshape(b, n, t, g * window, d)

    def pairs(x: Tensor) -> Tensor:
        x = x.view(b, n, window, t, -1).transpose(2, 3)
        return torch.cat([F.pad(x[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0)), x], -2)

    k, v = pairs(k), pairs(v)
    score = (q @ k.transpose(-1, -2)).float() * d**-0.5
    row = torch.arange(window, device=q.device)[:, None]
    col = torch.arange(2 * window, device=q.device)[None] - window
    seen = (col <= row) & (row - col < window)
    first = torch.arange(n, device=q.device)[:, None, None] > 0
    seen = seen & (first | (col >= 0))
    score = score.view(b, n, t, g, window, 2 * window)
    score = score.masked_fill(~seen[None, :, None, None], float("-inf"))
    out = softmax_with_sink(score, sink.float().view(t, g, 1, 1)).to(v.dtype)
    out = out.view(b, n, t, g * window, 2 * window) @ v
    out = out.view(b, n, t, g, window, -1).permute(0, 1, 4, 2, 3, 5)
    return out.reshape(b, s + pad, t, g, -1)[:, :s]


def softmax_with_sink(score: Tensor, sink: Tensor | None) -> Tensor:
    """Softmax over the last axis with one more logit, `sink`, that carries no value."""
    if sink is None:
        return torch.softmax(score, -1)
    lse = torch.logsumexp(score, -1, keepdim=True)
    return torch.exp(score - torch.logaddexp(lse, sink))
