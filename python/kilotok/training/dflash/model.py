"""The drafter's forward in torch: taps -> context keys and values; anchor and masks -> block rows.

Weights are a dict by checkpoint name, plus ``mask_embedding``. Residual and softmax are float32;
products are in the weights' dtype.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kilotok.training.dflash.shape import DrafterShape

__all__ = [
    "Weights",
    "block_hidden",
    "context",
    "init_weights",
    "mask_embedding",
    "rms_norm",
    "rotary_table",
    "rotate",
]

Weights = dict[str, Tensor]
#: Keys and values of one layer, each [B, S, kv_heads, head_dim].
Context = list[tuple[Tensor, Tensor]]


def init_weights(shape: DrafterShape, seed: int) -> Weights:
    """Fresh float32 weights on the CPU, the same on every machine."""
    gen = torch.Generator().manual_seed(seed)

    def normal(*size: int, std: float) -> Tensor:
        return torch.randn(*size, generator=gen) * std

    d, kv = shape.hidden, shape.kv_heads * shape.head_dim
    wide = len(shape.taps) * d
    fan, out = d**-0.5, d**-0.5 / (2 * shape.layers) ** 0.5
    w: Weights = {
        "fc.weight": normal(d, wide, std=wide**-0.5),
        "hidden_norm.weight": torch.ones(d),
        "norm.weight": torch.ones(d),
    }
    if shape.has_mask_embedding:
        w["mask_embedding"] = normal(d, std=0.1)
    for i in range(shape.layers):
        p, a = f"layers.{i}.", f"layers.{i}.self_attn."
        w[p + "input_layernorm.weight"] = torch.ones(d)
        w[p + "post_attention_layernorm.weight"] = torch.ones(d)
        w[a + "q_proj.weight"] = normal(shape.heads * shape.head_dim, d, std=fan)
        w[a + "k_proj.weight"] = normal(kv, d, std=fan)
        w[a + "v_proj.weight"] = normal(kv, d, std=fan)
        w[a + "o_proj.weight"] = normal(d, shape.heads * shape.head_dim, std=out)
        w[a + "q_norm.weight"] = torch.ones(shape.head_dim)
        w[a + "k_norm.weight"] = torch.ones(shape.head_dim)
        if shape.sinks:
            w[a + "attention_sink_bias"] = torch.zeros(shape.heads)
        w[p + "mlp.gate_proj.weight"] = normal(shape.inter, d, std=fan)
        w[p + "mlp.up_proj.weight"] = normal(shape.inter, d, std=fan)
        w[p + "mlp.down_proj.weight"] = normal(d, shape.inter, std=out)
    return w


def mask_embedding(shape: DrafterShape, w: Weights, embed: Tensor) -> Tensor:
    """What stands at masked rows, [hidden]: the trained vector, or the target's own row."""
    return w["mask_embedding"] if shape.has_mask_embedding else embed[shape.mask_token_id]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last axis; float32 statistics, result in weight's dtype."""
    x = x.float()
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return x.to(weight.dtype) * weight


def rotary_table(
    positions: int, dim: int, theta: float, device: torch.device | str = "cpu"
) -> Tensor:
    """cos and sin of every angle; float32 [2, positions, dim // 2]."""
    inv = theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angle = torch.arange(positions, dtype=torch.float64)[:, None] * inv
    return torch.stack([angle.cos(), angle.sin()]).float().to(device)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the first dims of every head; pairs are (i, i + dim / 2).

    x is [..., heads, head_dim]; table is [2, ..., dim // 2], broadcast over heads.
    """
    half = table.shape[-1]
    cos, sin = table[0].unsqueeze(-2), table[1].unsqueeze(-2)
    a, b = x[..., :half].float(), x[..., half : 2 * half].float()
    turned = torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)
    return torch.cat([turned, x[..., 2 * half :]], -1)


def _key_value(
    shape: DrafterShape, w: Weights, attn: str, rows: Tensor, table: Tensor
) -> tuple[Tensor, Tensor]:
    size = (*rows.shape[:-1], shape.kv_heads, shape.head_dim)
    k = (rows @ w[attn + "k_proj.weight"].t()).view(size)
    v = (rows @ w[attn + "v_proj.weight"].t()).view(size)
    k = rotate(rms_norm(k, w[attn + "k_norm.weight"], shape.eps), table)
    return k, v * shape.value_scale


def context(shape: DrafterShape, w: Weights, taps: Tensor, table: Tensor) -> Context:
    """Per layer, keys and values of committed rows.

    taps [B, S, K * hidden]; table [2, S, rotary_dim / 2] of their positions.
    """
    c = rms_norm(taps @ w["fc.weight"].t(), w["hidden_norm.weight"], shape.eps)
    return [_key_value(shape, w, f"layers.{i}.self_attn.", c, table) for i in range(shape.layers)]


def block_hidden(
    shape: DrafterShape,
    w: Weights,
    ctx: Context,
    anchor: Tensor,
    pos: Tensor,
    embed: Tensor,
    table: Tensor,
) -> Tensor:
    """Final normed rows of every block, [B, N, block, hidden] in the weights' dtype.

    Parameters
    ----------
    ctx : from `context`; position j is visible iff j < pos, strictly (the anchor has no feature
        yet), and within the window of the query.
    anchor, pos : int64 [B, N]
        The anchor tokens and their positions.
    embed : [vocab, hidden], the target's table.
    table : rotary table of all positions up to pos + block.
    """
    b, n = anchor.shape
    size, group = shape.block, shape.heads // shape.kv_heads
    mask = mask_embedding(shape, w, embed).to(embed.dtype)
    x = mask.expand(b, n, size - 1, shape.hidden)
    x = torch.cat([F.embedding(anchor, embed).unsqueeze(2), x], 2).float()
    at = pos[..., None] + torch.arange(size, device=anchor.device)
    turn = table[:, at]
    key_at = torch.arange(ctx[0][0].shape[1], device=anchor.device)
    before = (key_at < pos[..., None, None]).expand(b, n, size, -1)
    for i in range(shape.layers):
        p, attn = f"layers.{i}.", f"layers.{i}.self_attn."
        window = shape.windows[i]
        seen = before if window is None else before & (at[..., None] - key_at < window)
        y = rms_norm(x, w[p + "input_layernorm.weight"], shape.eps)
        q = (y @ w[attn + "q_proj.weight"].t()).view(b, n, size, shape.heads, shape.head_dim)
        q = rotate(rms_norm(q, w[attn + "q_norm.weight"], shape.eps), turn)
        q = q.view(b, n, size, shape.kv_heads, group, shape.head_dim)
        k, v = _key_value(shape, w, attn, y, turn)
        sinks = w.get(attn + "attention_sink_bias")
        o = _attend(q, ctx[i], k, v, seen, sinks, shape.causal[i])
        x = x + (o @ w[attn + "o_proj.weight"].t()).float()
        z = rms_norm(x, w[p + "post_attention_layernorm.weight"], shape.eps)
        hidden = F.silu(z @ w[p + "mlp.gate_proj.weight"].t()) * (
            z @ w[p + "mlp.up_proj.weight"].t()
        )
        x = x + (hidden @ w[p + "mlp.down_proj.weight"].t()).float()
    return rms_norm(x, w["norm.weight"], shape.eps)


def _attend(
    q: Tensor,
    ctx: tuple[Tensor, Tensor],
    k: Tensor,
    v: Tensor,
    seen: Tensor,
    sinks: Tensor | None,
    causal: bool,
) -> Tensor:
    """One softmax over context keys, the block's keys and the sink: [B, N, block, heads * d]."""
    b, n, size, t, g, d = q.shape
    ctx_k, ctx_v = ctx
    length = ctx_k.shape[1]
    flat = q.permute(0, 3, 4, 1, 2, 5).reshape(b, t, g * n * size, d)
    far = (flat @ ctx_k.permute(0, 2, 3, 1)).float().view(b, t, g, n, size, length) * d**-0.5
    # Not -inf: a block without context (an unused anchor at 0) must not make NaN gradients.
    far = far.masked_fill(~seen[:, None, None], -1e30)
    own = q.permute(0, 1, 3, 4, 2, 5).reshape(b, n, t, g * size, d)
    near = (own @ k.permute(0, 1, 3, 4, 2)).float().view(b, n, t, g, size, size) * d**-0.5
    if causal:
        later = torch.ones(size, size, dtype=torch.bool, device=q.device).triu(1)
        near = near.masked_fill(later, -1e30)
    near = near.permute(0, 2, 3, 1, 4, 5)
    lse = torch.logaddexp(
        torch.logsumexp(far, -1, keepdim=True), torch.logsumexp(near, -1, keepdim=True)
    )
    if sinks is not None:
        lse = torch.logaddexp(lse, sinks.float().view(1, t, g, 1, 1, 1))
    far, near = torch.exp(far - lse).to(v.dtype), torch.exp(near - lse).to(v.dtype)
    out_far = far.view(b, t, g * n * size, length) @ ctx_v.transpose(1, 2)
    out_far = out_far.view(b, t, g, n, size, d).permute(0, 3, 4, 1, 2, 5)
    near = near.permute(0, 3, 1, 2, 4, 5).reshape(b, n, t, g * size, size)
    out_near = (near @ v.transpose(2, 3)).view(b, n, t, g, size, d).permute(0, 1, 4, 2, 3, 5)
    return (out_far + out_near).reshape(b, n, size, t * g * d)
