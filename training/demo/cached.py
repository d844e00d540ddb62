"""Target forward with a KV cache: prefill, one-token decode and block verification alike.

Row r of sequence b sits at position pos[b, r]; its key and value are written there and it sees
every cached position up to its own. Rows written and then rejected are never visible: a later
call overwrites a position before any row at or after it can look.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from training.demo.attention import rms_norm, rotary_table, softmax_with_sink
from training.demo.preset import TargetConfig
from training.demo.target import Weights, feed_forward, layer_weights, project


class CachedTarget:
    """Target with caches for `batch` sequences of up to `length` positions."""

    def __init__(self, cfg: TargetConfig, w: Weights, batch: int, length: int) -> None:
        self.cfg = cfg
        self.w = {n: t.detach() for n, t in w.items()}
        self.layers = [layer_weights(self.w, i) for i in range(cfg.layers)]
        device, dtype = w["embed"].device, w["embed"].dtype
        self.tables = [
            rotary_table(length, cfg.rotary_dim, theta, device)
            for theta in (cfg.rope_theta, cfg.swa_rope_theta)
        ]
        # Position before head size within a head: products with a prefix need no copy.
        shape = (batch, cfg.kv_heads, length)
        self.k = [
            torch.zeros(*shape, cfg.head_dim, device=device, dtype=dtype) for _ in cfg.pattern
        ]
        self.v = [
            torch.zeros(*shape, cfg.v_head_dim, device=device, dtype=dtype) for _ in cfg.pattern
        ]

    @torch.no_grad()
    def forward(
        self,
        tokens: Tensor,
        pos: Tensor,
        upto: int,
        taps: tuple[int, ...] = (),
        rows: slice = slice(None),
        lowest: int = 0,
    ) -> tuple[Tensor, Tensor | None]:
        """Residual before the final norm [B, R, hidden] and concatenated taps [B, R, K * hidden].

        tokens, pos int64 [B, R]; `upto` bounds the positions (exclusive), `lowest`
        is a position no row is below; `rows` picks the sequences of the cache when B is a part of
        the batch.
        """
        x = F.embedding(tokens, self.w["embed"]).float()
        tapped = []
        for i, swa in enumerate(self.cfg.pattern):
            w = self.layers[i]
            a = rms_norm(x, w["in_norm"], self.cfg.eps)
            q, k, v = project(self.cfg, a, w["qkv"], self.tables[swa][:, pos])
            index = torch.arange(len(tokens), device=pos.device)[:, None]
            key, value = self.k[i][rows], self.v[i][rows]
            key[index, :, pos], value[index, :, pos] = k, v
            start = max(0, lowest - self.cfg.window + 1) if swa else 0
            o = self._attend(
                q, key[:, :, start:upto], value[:, :, start:upto], pos, start, w.get("sink")
            )
            x = x + (o @ w["o"].t()).float()
            y, _ = feed_forward(self.cfg, rms_norm(x, w["post_norm"], self.cfg.eps), w)
            x = x + y.float()
            if i in taps:
                tapped.append(x)
        return x, (torch.cat(tapped, -1).to(self.w["embed"].dtype) if taps else None)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, pos: Tensor, start: int, sink: Tensor | None
    ) -> Tensor:
        b, r, t, g, d = q.shape
        q = q.permute(0, 2, 3, 1, 4).reshape(b, t, g * r, d)
        score = (q @ k.mT).float() * d**-0.5
        at = start + torch.arange(k.shape[2], device=q.device)
        seen = at <= pos[..., None]
        if sink is not None:
            seen &= pos[..., None] - at < self.cfg.window
        score = score.view(b, t, g, r, -1).masked_fill(~seen[:, None, None], float("-inf"))
        sink = None if sink is None else sink.float().view(t, g, 1, 1)
        p = softmax_with_sink(score, sink).to(v.dtype).view(b, t, g * r, -1)
        return (p @ v).view(b, t, g, r, -1).permute(0, 3, 1, 2, 4).reshape(b, r, -1)

    @torch.no_grad()
    def head(self, x: Tensor) -> Tensor:
        """float32 logits of residual rows."""
        return (rms_norm(x, self.w["norm"], self.cfg.eps) @ self.w["head"].t()).float()
