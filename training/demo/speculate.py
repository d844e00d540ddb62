"""Real speculative decoding in torch: draft a block, verify it with the target, walk, commit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.demo.cached import CachedTarget
from training.demo.drafter import block_hidden, context, rotary
from training.demo.preset import DrafterConfig, TargetConfig
from training.demo.target import Weights


@dataclass
class Decoded:
    """One request's tokens; per round, drafts accepted (without bonus) and tokens emitted."""

    tokens: list[int]
    accepted: list[int]
    emitted: list[int]


class Speculator:
    """Target plus drafter over a batch of prompts of different lengths.

    Noise for sampled decoding is keyed by (request, position): the choice for a position is
    argmax(logits / T + noise[request, position]), with or without drafts.
    """

    def __init__(
        self,
        cfg: TargetConfig,
        w: Weights,
        drafter_cfg: DrafterConfig,
        drafter: Weights,
        prompts: list[list[int]],
        new_tokens: int,
        stop: tuple[int, ...],
        temperature: float,
        seed: int,
    ) -> None:
        self.cfg, self.dcfg, self.w = cfg, drafter_cfg, w
        self.d = {n: t.detach() for n, t in drafter.items()}
        self.prompts, self.new, self.stop, self.temperature = prompts, new_tokens, stop, temperature
        self.device = w["embed"].device
        self.size = torch.tensor([len(p) for p in prompts], device=self.device)
        self.length = int(self.size.max()) + new_tokens + drafter_cfg.block
        gen = torch.Generator(self.device).manual_seed(seed)
        self.noise = None
        if temperature > 0:
            # One row per generated position and request, from -log(Exp(1)).
            self.noise = (
                torch.empty(
                    len(prompts), new_tokens + drafter_cfg.block, cfg.vocab, device=self.device
                )
                .exponential_(generator=gen)
                .log_()
                .neg_()
            )

    @torch.no_grad()
    def decode(self, block: int) -> list[Decoded]:
        """Decode all requests with blocks of `block` rows (1: plain decoding, no drafts)."""
        batch, device = len(self.prompts), self.device
        target = CachedTarget(self.cfg, self.w, batch, self.length)
        table = rotary(self.dcfg, self.length, device)
        padded = torch.zeros(batch, int(self.size.max()), dtype=torch.long, device=device)
        for i, prompt in enumerate(self.prompts):
            padded[i, : len(prompt)] = torch.tensor(prompt, device=device)
        pos = torch.arange(padded.shape[1], device=device).expand(batch, -1)
        x, taps = target.forward(padded, pos, padded.shape[1], self.dcfg.taps)
        shape = (batch, self.length, self.dcfg.kv_heads, self.dcfg.head_dim)
        empty = torch.zeros(*shape, device=device, dtype=self.d["fc"].dtype)
        ctx = [(empty.clone(), empty.clone()) for _ in range(self.dcfg.layers)]
        self._append(ctx, taps, pos, table)
        index = torch.arange(batch, device=device)
        start = self.size.clone()
        anchor = self._choose(target.head(x[index, start - 1]).unsqueeze(1), start[:, None])[:, 0]
        done = [Decoded([t], [], []) for t in anchor.tolist()]
        live = [not self._finished(d.tokens) for d in done]
        slot = torch.arange(block, device=device)
        while any(live):
            at = start[:, None] + slot
            tokens = anchor[:, None]
            if block > 1:
                h = block_hidden(
                    self.dcfg, self.d, ctx, anchor[:, None], start[:, None], self.w["embed"], table
                )
                drafts = (h[:, 0, 1:block] @ self.w["head"].t()).float().argmax(-1)
                tokens = torch.cat([tokens, drafts], 1)
            x, taps = target.forward(tokens, at, self.length, self.dcfg.taps)
            choice = self._choose(target.head(x), at + 1)
            right = (tokens[:, 1:] == choice[:, :-1]).long().cumprod(1).sum(1)
            self._append(ctx, taps, at, table)
            accepted = right.tolist()
            chosen = choice.tolist()
            for i, request in enumerate(done):
                if not live[i]:
                    continue
                fresh = self._truncate(request.tokens, chosen[i][: accepted[i] + 1])
                request.tokens += fresh
                request.accepted.append(accepted[i])
                request.emitted.append(len(fresh))
                live[i] = not self._finished(request.tokens)
            # Finished requests stay where they are; their rows keep running and are ignored.
            moving = torch.tensor(live, device=device)
            start = torch.where(moving, start + right + 1, start)
            anchor = torch.where(moving, choice[index, right], anchor)
        return done

    def _append(self, ctx: list, taps: Tensor, pos: Tensor, table: Tensor) -> None:
        """Context keys and values of rows, at their positions; rejected ones get overwritten."""
        index = torch.arange(len(taps), device=taps.device)[:, None]
        rows = context(self.dcfg, self.d, taps, table[:, pos])
        for (k, v), (new_k, new_v) in zip(ctx, rows, strict=True):
            k[index, pos], v[index, pos] = new_k, new_v

    def _choose(self, logits: Tensor, at: Tensor) -> Tensor:
        """The target's own token for position `at` of every row; logits [B, R, V], at [B, R]."""
        if self.noise is None:
            return logits.argmax(-1)
        index = torch.arange(len(logits), device=logits.device)[:, None]
        step = (at - self.size[:, None]).clamp_max(self.noise.shape[1] - 1)
        return (logits / self.temperature + self.noise[index, step]).argmax(-1)

    def _finished(self, tokens: list[int]) -> bool:
        return len(tokens) >= self.new or tokens[-1] in self.stop

    def _truncate(self, before: list[int], fresh: list[int]) -> list[int]:
        fresh = fresh[: self.new - len(before)]
        for i, token in enumerate(fresh):
            if token in self.stop:
                return fresh[: i + 1]
        return fresh
