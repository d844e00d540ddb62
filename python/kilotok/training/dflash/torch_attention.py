"""Causal attention over whole texts in torch: full, and sliding with sinks, without S x S masks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["causal", "windowed"]


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Full causal attention.

    q [B, S, heads, d], k [B, S, kv, d], v [B, S, kv, dv] -> [B, S, heads * dv].
    """
    b, s, heads, d = q.shape
    kv, dv = v.shape[2:]
    k = k[:, :, :, None].expand(b, s, kv, heads // kv, d).reshape(b, s, heads, d)
    # The fused kernels want one head size for keys and values.
    v = F.pad(v, (0, d - dv)) if d > dv else v
    v = v[:, :, :, None].expand(b, s, kv, heads // kv, v.shape[-1]).reshape(b, s, heads, -1)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return out.transpose(1, 2)[..., :dv].reshape(b, s, heads * dv)


def windowed(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, window: int) -> Tensor:
    """Causal attention over the last `window` keys, the query's own included.

    Shapes as in `causal`.

    Queries go in blocks of `window`, which see their own block and the one before. sinks [heads].
    """
    b, s, heads, d = q.shape
    t = k.shape[2]
    g, pad = heads // t, -s % window
    n = (s + pad) // window
    q, k, v = (F.pad(x, (0, 0, 0, 0, 0, pad)) for x in (q, k, v))
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
    lse = torch.logsumexp(score, -1, keepdim=True)
    if sinks is not None:
        lse = torch.logaddexp(lse, sinks.float().view(t, g, 1, 1))
    out = torch.exp(score - lse).to(v.dtype).view(b, n, t, g * window, 2 * window) @ v
    out = out.view(b, n, t, g, window, -1).permute(0, 1, 4, 2, 3, 5)
    return out.reshape(b, s + pad, -1)[:, :s]
