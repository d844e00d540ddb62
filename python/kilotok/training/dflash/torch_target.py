"""A MiMo-V2 target in torch with a key/value cache: taps and text where the engine has no GPU.

Meant for targets that fit one device decoded to BF16; all experts are computed for every row.
Row r of sequence b sits at position pos[b, r]: its key and value are written there, and it sees
every cached position up to its own. A later call overwrites a position before any row at or after
it can look, so padding and rejected rows are never visible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kilotok.errors import InvalidRequestError
from kilotok.reference import open_target
from kilotok.reference.config import LayerConfig
from kilotok.reference.mimo import Mimo
from kilotok.training.dflash.compiling import compiled
from kilotok.training.dflash.model import rms_norm, rotary_table, rotate
from kilotok.training.dflash.torch_attention import causal, windowed

__all__ = ["Cache", "TorchTarget", "TorchWriter"]

#: Texts of one forward pass.
_BATCH = 256


@dataclass
class Cache:
    """Keys and values per layer, [B, kv_heads, length, dim], and rotary tables by layer."""

    keys: list[Tensor]
    values: list[Tensor]
    tables: list[Tensor]
    length: int


class TorchTarget:
    """A target whose weights are decoded once.

    Parameters
    ----------
    path : checkpoint directory of the MiMo-V2 family.
    layers : 0-based layers to tap.
    compile_taps : compile `padded_taps`; worth it where batches have one shape.
    """

    def __init__(
        self,
        path: Path,
        layers: Sequence[int],
        device: torch.device,
        dtype: torch.dtype,
        compile_taps: bool = False,
    ) -> None:
        model = open_target(path, np.float32)
        if not isinstance(model, Mimo):
            raise InvalidRequestError("--teacher", "torch reads the MiMo-V2 family only")
        self.config, self.tapped = model.config, tuple(layers)
        self.device, self.dtype = device, dtype
        self._rotary: dict[int, list[Tensor]] = {}
        self._padded = compiled(self._whole, "taps") if compile_taps else self._whole
        self.embed, self.head, self.norm = (
            self._put(t) for t in (model.embedding, model.head, model.norm)
        )
        self.layers = [self._layer(w) for w in model.layers]

    def _put(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, self.dtype)

    def _layer(self, weights: dict[str, np.ndarray]) -> dict[str, Tensor]:
        w = {name: self._put(array) for name, array in weights.items()}
        if "router" in w:
            for name in ("router", "router_bias"):
                w[name] = torch.from_numpy(weights[name]).to(self.device)
            experts, inter, hidden = w["gate"].shape
            # All experts as one wide feed-forward, [hidden, experts * inter] at its end.
            w["down"] = w["down"].transpose(0, 1).reshape(hidden, experts * inter).contiguous()
        return w

    def cache(self, batch: int, length: int) -> Cache:
        """Empty caches for `batch` texts of at most `length` positions."""
        layers = self.config.layers

        def zeros(heads: int, dim: int) -> Tensor:
            return torch.zeros(batch, heads, length, dim, device=self.device, dtype=self.dtype)

        return Cache(
            [zeros(c.kv_heads, c.head_dim) for c in layers],
            [zeros(c.kv_heads, c.v_head_dim) for c in layers],
            [rotary_table(length, c.rotary_dim, c.theta, self.device) for c in layers],
            length,
        )

    @torch.no_grad()
    def forward(
        self,
        cache: Cache,
        tokens: Tensor,
        pos: Tensor,
        upto: int,
        rows: slice = slice(None),
        lowest: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """Residual before the final norm, float32 [B, R, hidden], and taps [B, R, K * hidden].

        tokens, pos int64 [B, R]; `upto` bounds the positions (exclusive), `lowest` is a position
        no row is below; `rows` picks the texts of the cache that these are.
        """
        x = F.embedding(tokens, self.embed).float()
        tapped = []
        for i, (layer, w) in enumerate(zip(self.config.layers, self.layers, strict=True)):
            a = rms_norm(x, w["attn_norm"], self.config.eps)
            q, k, v = self._project(a, layer, w["qkv"], cache.tables[i][:, pos])
            index = torch.arange(len(tokens), device=pos.device)[:, None]
            keys, values = cache.keys[i][rows], cache.values[i][rows]
            keys[index, :, pos], values[index, :, pos] = k, v
            start = 0 if layer.window is None else max(0, lowest - layer.window + 1)
            keys, values = keys[:, :, start:upto], values[:, :, start:upto]
            o = _attend(q, keys, values, pos, start, layer.window, w.get("sinks"))
            x = x + (o @ w["o"].t()).float()
            x = x + self._ffn(rms_norm(x, w["ffn_norm"], self.config.eps), layer, w).float()
            if i in self.tapped:
                tapped.append(x)
        taps = torch.cat(tapped, -1) if tapped else x[..., :0]
        return x, taps.to(self.dtype)

    def logits(self, x: Tensor) -> Tensor:
        """float32 logits of residual rows."""
        return (rms_norm(x, self.norm, self.config.eps) @ self.head.t()).float()

    def _project(
        self, a: Tensor, layer: LayerConfig, qkv: Tensor, table: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        b, r, _ = a.shape
        chunks = self.config.chunks or 1
        q_rows = layer.heads // chunks * layer.head_dim
        k_rows = layer.kv_heads // chunks * layer.head_dim
        y = (a @ qkv.t()).view(b, r, chunks, -1)
        q, k, v = y.tensor_split([q_rows, q_rows + k_rows], -1)
        q = rotate(q.reshape(b, r, layer.heads, layer.head_dim), table)
        k = rotate(k.reshape(b, r, layer.kv_heads, layer.head_dim), table)
        v = v.reshape(b, r, layer.kv_heads, layer.v_head_dim) * self.config.value_scale
        return q, k, v

    def _ffn(self, m: Tensor, layer: LayerConfig, w: dict[str, Tensor]) -> Tensor:
        if not layer.sparse:
            return (F.silu(m @ w["gate"].t()) * (m @ w["up"].t())) @ w["down"].t()
        c = self.config
        score = torch.sigmoid(m.float() @ w["router"].t())
        best = (score + w["router_bias"]).topk(c.top_k, -1).indices
        gates = torch.zeros_like(score).scatter(-1, best, score.gather(-1, best))
        if c.norm_topk:
            gates = gates / (gates.sum(-1, keepdim=True) + 1e-20)
        experts, inter, hidden = w["gate"].shape
        up = m @ w["up"].view(experts * inter, hidden).t()
        wide = F.silu(m @ w["gate"].view(experts * inter, hidden).t()) * up
        wide = wide.unflatten(-1, (experts, inter)) * (gates * c.scaling_factor).unsqueeze(-1).to(
            wide.dtype
        )
        return wide.flatten(-2) @ w["down"].t()

    def taps(self, texts: Sequence[Sequence[int]]) -> list[Tensor]:
        """As `Teacher.taps`, on this target's device."""
        out: list[Tensor] = []
        for first in range(0, len(texts), _BATCH):
            some = texts[first : first + _BATCH]
            length = max(map(len, some))
            tokens = torch.zeros(len(some), length, dtype=torch.long)
            for i, text in enumerate(some):
                tokens[i, : len(text)] = torch.as_tensor(np.asarray(text, np.int64))
            taps = self._whole(tokens.to(self.device), self._tables(length))
            out += [taps[i, : len(text)] for i, text in enumerate(some)]
        return out

    def padded_taps(self, tokens: Tensor) -> Tensor:
        """Taps of equally long rows, [B, S, K * hidden]; int64 [B, S] in. No cache is made."""
        return self._padded(tokens, self._tables(tokens.shape[1]))

    def _tables(self, length: int) -> list[Tensor]:
        if length not in self._rotary:
            self._rotary[length] = [
                rotary_table(length, layer.rotary_dim, layer.theta, self.device)
                for layer in self.config.layers
            ]
        return self._rotary[length]

    @torch.no_grad()
    def _whole(self, tokens: Tensor, tables: list[Tensor]) -> Tensor:
        x = F.embedding(tokens, self.embed).float()
        tapped = []
        for i, (layer, w) in enumerate(zip(self.config.layers, self.layers, strict=True)):
            a = rms_norm(x, w["attn_norm"], self.config.eps)
            q, k, v = self._project(a, layer, w["qkv"], tables[i])
            if layer.window is not None:
                o = windowed(q, k, v, w.get("sinks"), layer.window)
            elif "sinks" in w:
                o = windowed(q, k, v, w["sinks"], tokens.shape[1])
            else:
                o = causal(q, k, v)
            x = x + (o @ w["o"].t()).float()
            x = x + self._ffn(rms_norm(x, w["ffn_norm"], self.config.eps), layer, w).float()
            if i in self.tapped:
                tapped.append(x)
        return torch.cat(tapped, -1).to(self.dtype)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pos: Tensor,
    start: int,
    window: int | None,
    sinks: Tensor | None,
) -> Tensor:
    b, r, heads, d = q.shape
    t = k.shape[1]
    q = q.view(b, r, t, heads // t, d).permute(0, 2, 3, 1, 4).reshape(b, t, -1, d)
    score = (q @ k.mT).float() * d**-0.5
    at = start + torch.arange(k.shape[2], device=q.device)
    seen = at <= pos[..., None]
    if window is not None:
        seen = seen & (pos[..., None] - at < window)
    score = score.view(b, t, heads // t, r, -1).masked_fill(~seen[:, None, None], float("-inf"))
    lse = torch.logsumexp(score, -1, keepdim=True)
    if sinks is not None:
        lse = torch.logaddexp(lse, sinks.float().view(t, heads // t, 1, 1))
    p = torch.exp(score - lse).to(v.dtype).view(b, t, -1, score.shape[-1])
    return (p @ v).view(b, t, heads // t, r, -1).permute(0, 3, 1, 2, 4).reshape(b, r, -1)


class TorchWriter:
    """Answers decoded in lockstep on a device.

    Parameters
    ----------
    stop : token ids that end an answer; none to fill every answer to its length.
    """

    batch = 4096

    def __init__(self, target: TorchTarget, max_tokens: int, stop: Sequence[int]) -> None:
        self._target, self._max_tokens, self._stop = target, max_tokens, frozenset(stop)

    def write(
        self, prompts: Sequence[Sequence[int]], temperatures: Sequence[float], seed: int
    ) -> list[list[int]]:
        """As `Writer.write`."""
        gen = torch.Generator(self._target.device).manual_seed(seed)
        heat = torch.tensor(list(temperatures), device=self._target.device)
        made = self._decode(prompts, heat, gen)
        return [self._cut(row) for row in made.tolist()]

    @torch.no_grad()
    def _decode(
        self, prompts: Sequence[Sequence[int]], heat: Tensor, gen: torch.Generator
    ) -> Tensor:
        target, batch = self._target, len(prompts)
        size = torch.tensor([len(p) for p in prompts], device=target.device)
        longest = int(size.max())
        tokens = torch.zeros(batch, longest, dtype=torch.long)
        for i, prompt in enumerate(prompts):
            tokens[i, : len(prompt)] = torch.tensor(list(prompt))
        tokens = tokens.to(target.device)
        cache = target.cache(batch, longest + self._max_tokens)
        pos = torch.arange(longest, device=target.device)
        last = torch.empty(batch, 1, target.config.hidden_size, device=target.device)
        for first in range(0, batch, _BATCH):
            rows = slice(first, first + _BATCH)
            part = tokens[rows]
            x, _ = target.forward(cache, part, pos.expand(len(part), -1), longest, rows)
            index = torch.arange(len(part), device=target.device)
            last[rows] = x[index, size[rows] - 1].unsqueeze(1)
        out = torch.empty(batch, self._max_tokens, dtype=torch.long, device=target.device)
        low, warm = int(size.min()), (heat > 0).nonzero().flatten()
        for step in range(self._max_tokens):
            out[:, step] = _choose(target.logits(last)[:, 0], heat, warm, gen)
            if step + 1 < self._max_tokens:
                at = (size + step)[:, None]
                last, _ = target.forward(
                    cache, out[:, step : step + 1], at, longest + step + 1, lowest=low + step
                )
        return out

    def _cut(self, row: list[Any]) -> list[int]:
        for i, token in enumerate(row):
            if token in self._stop:
                return row[: i + 1]
        return row


def _choose(logits: Tensor, heat: Tensor, warm: Tensor, gen: torch.Generator) -> Tensor:
    """Greedy; Gumbel-max in the rows `warm`, whose heat is above 0. logits [B, V] -> int64 [B]."""
    choice = logits.argmax(-1)
    if len(warm):
        noise = torch.empty(len(warm), logits.shape[1], device=logits.device)
        noise.exponential_(generator=gen).log_()
        choice[warm] = (logits[warm] / heat[warm, None] - noise).argmax(-1)
    return choice
