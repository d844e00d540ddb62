"""The target model: MiMo-V2-shaped, as pure functions over a dict of tensors.

Weights are plain tensors in the dtypes of the checkpoint (BF16; router F32). Names follow the
checkpoint without its prefixes; experts are stacked [E, rows, K]. The residual stream is float32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from training.demo.attention import causal, rms_norm, rotary_table, rotate, windowed
from training.demo.preset import TargetConfig

Weights = dict[str, Tensor]


def init_target(cfg: TargetConfig, seed: int, mask_id: int) -> Weights:
    """Fresh float32 weights on the CPU (the same on every machine)."""
    gen = torch.Generator().manual_seed(seed)

    def normal(*shape: int, std: float) -> Tensor:
        return torch.randn(*shape, generator=gen) * std

    d = cfg.hidden
    fan, out = d**-0.5, d**-0.5 / (2 * cfg.layers) ** 0.5
    w: Weights = {
        "embed": normal(cfg.vocab, d, std=0.1),
        "head": normal(cfg.vocab, d, std=0.5 * fan),
        "norm": torch.ones(d),
    }
    # The family's mask row is zero in the target; the drafter brings its own vector.
    w["embed"][mask_id] = 0
    for i, swa in enumerate(cfg.pattern):
        p = f"{i}."
        w[p + "in_norm"], w[p + "post_norm"] = torch.ones(d), torch.ones(d)
        w[p + "qkv"] = normal(cfg.kv_heads * cfg.chunk_rows, d, std=fan)
        w[p + "o"] = normal(d, cfg.heads * cfg.v_head_dim, std=out)
        if swa:
            w[p + "sink"] = torch.zeros(cfg.heads)
        if i == 0:
            n = cfg.dense_inter
            w[p + "gate"], w[p + "up"] = normal(n, d, std=fan), normal(n, d, std=fan)
            w[p + "down"] = normal(d, n, std=out)
        else:
            n, e = cfg.expert_inter, cfg.experts
            w[p + "router"], w[p + "bias"] = normal(e, d, std=0.5 * fan), torch.zeros(e)
            w[p + "experts_gate"] = normal(e, n, d, std=fan)
            w[p + "experts_up"] = normal(e, n, d, std=fan)
            w[p + "experts_down"] = normal(e, d, n, std=out * 1.5)
    return w


def layer_weights(w: Weights, i: int) -> Weights:
    """Weights of layer i, without the prefix."""
    prefix = f"{i}."
    return {k[len(prefix) :]: v for k, v in w.items() if k.startswith(prefix)}


def project(cfg: TargetConfig, a: Tensor, qkv: Tensor, table: Tensor) -> tuple[Tensor, ...]:
    """Fused projection and rotary: q [B, S, T, G, d], k [B, S, T, d], v [B, S, T, dv] (scaled)."""
    b, s, _ = a.shape
    t, g, d = cfg.kv_heads, cfg.heads // cfg.kv_heads, cfg.head_dim
    y = (a @ qkv.t()).view(b, s, t, cfg.chunk_rows)
    q, k, v = y.split([g * d, d, cfg.v_head_dim], -1)
    q = rotate(q.reshape(b, s, t * g, d), table).view(b, s, t, g, d)
    return q, rotate(k, table), v * cfg.value_scale


def feed_forward(cfg: TargetConfig, m: Tensor, w: Weights) -> tuple[Tensor, Tensor | None]:
    """Dense SwiGLU, or the experts; (output, share of tokens per expert).

    All experts run as one wide SwiGLU whose hidden units are scaled by the routing weight of
    their expert (0 if not chosen): more arithmetic than needed, but three plain matrix products.
    """
    if "router" not in w:
        return (F.silu(m @ w["gate"].t()) * (m @ w["up"].t())) @ w["down"].t(), None
    e, n, d = w["experts_gate"].shape
    score = torch.sigmoid(m.float() @ w["router"].float().t())
    biased = (score + w["bias"]).detach()
    chosen = torch.zeros_like(biased)
    number = torch.arange(e, device=m.device)
    for _ in range(cfg.top_k):
        best = (biased.argmax(-1, keepdim=True) == number).to(biased.dtype)
        chosen = chosen + best
        biased = biased - 1e9 * best
    gates = score * chosen
    gates = gates / (gates.sum(-1, keepdim=True) + 1e-20)
    hidden = F.silu(m @ w["experts_gate"].view(e * n, d).t()) * (
        m @ w["experts_up"].view(e * n, d).t()
    )
    hidden = hidden.unflatten(-1, (e, n)) * gates.unsqueeze(-1).to(hidden.dtype)
    down = w["experts_down"].transpose(0, 1).reshape(d, e * n)
    load = chosen.flatten(0, -2).mean(0)
    return hidden.flatten(-2) @ down.t(), load


def make_layer(cfg: TargetConfig, swa: bool) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """`layer(x, weights, table) -> (x, load)` over whole sequences."""

    def layer(x: Tensor, w: Weights, table: Tensor) -> tuple[Tensor, Tensor | None]:
        q, k, v = project(cfg, rms_norm(x, w["in_norm"], cfg.eps), w["qkv"], table)
        o = windowed(q, k, v, w["sink"], cfg.window) if swa else causal(q, k, v)
        x = x + (o.flatten(2) @ w["o"].t()).float()
        y, load = feed_forward(cfg, rms_norm(x, w["post_norm"], cfg.eps), w)
        return x + y.float(), load

    return layer


class Target:
    """Whole-sequence forward with (optionally compiled) layers."""

    def __init__(
        self, cfg: TargetConfig, device: torch.device, compile_with: Callable = lambda f: f
    ) -> None:
        self.cfg = cfg
        self.tables = [
            rotary_table(cfg.max_position, cfg.rotary_dim, theta, device)
            for theta in (cfg.rope_theta, cfg.swa_rope_theta)
        ]
        self.layers = [compile_with(make_layer(cfg, bool(swa))) for swa in (0, 1)]
        self.head_loss = compile_with(self._head_loss)

    def hidden(
        self, w: Weights, tokens: Tensor, taps: tuple[int, ...] = ()
    ) -> tuple[Tensor, list, list]:
        """Residual stream before the final norm, expert loads per MoE layer, and the taps.

        tokens int64 [B, S]; result float32 [B, S, hidden]. A tap is the residual after that layer.
        """
        x = F.embedding(tokens, w["embed"]).float()
        loads, tapped = [], []
        for i, swa in enumerate(self.cfg.pattern):
            table = self.tables[swa][:, : tokens.shape[1]]
            x, load = self.layers[swa](x, layer_weights(w, i), table)
            if load is not None:
                loads.append(load)
            if i in taps:
                tapped.append(x)
        return x, loads, tapped

    def logits(self, w: Weights, tokens: Tensor) -> Tensor:
        """float32 logits [B, S, vocab] of whole sequences."""
        x, _, _ = self.hidden(w, tokens)
        return (rms_norm(x, w["norm"], self.cfg.eps) @ w["head"].t()).float()

    def _head_loss(self, x: Tensor, norm: Tensor, head: Tensor, labels: Tensor) -> Tensor:
        h = rms_norm(x, norm, self.cfg.eps)
        return F.cross_entropy(
            (h @ head.t()).float().flatten(0, -2), labels.flatten(), reduction="none"
        )

    def token_losses(self, w: Weights, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Next-token losses in nats, float32 [B * (S - 1)], and expert loads; tokens [B, S]."""
        x, loads, _ = self.hidden(w, tokens[:, :-1])
        return self.head_loss(x, w["norm"], w["head"], tokens[:, 1:]), loads
