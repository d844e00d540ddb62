"""Acceptance of a drafter: as the engine serves it, and as teacher forcing predicts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kilotok.engine import Engine
from kilotok.sampling import SamplingParams
from kilotok.training.dflash.model import Weights, block_hidden, context, rotary_table
from kilotok.training.dflash.prompts import Prompt
from kilotok.training.dflash.shape import DrafterShape
from kilotok.training.dflash.teacher import Frozen, Teacher

__all__ = ["Acceptance", "drafts_behind", "report", "serve", "teacher_forced", "walk"]

#: Rows of a round that decoding always gets: the engine's 64 less the 16 it keeps for prompts. With
#: more requests at once it would shorten blocks, and tau would be that of the load.
_UNSHORTENED_ROWS = 48


@dataclass
class Acceptance:
    """Rounds of some requests.

    Attributes
    ----------
    histograms : per request, element k counts rounds in which exactly k drafts were accepted.
    tokens : per request, tokens that these rounds emitted. One fewer than the histogram says where
        the token that ended the answer was an accepted draft: no bonus token follows it.
    """

    histograms: list[list[int]]
    tokens: list[int]

    @property
    def tau(self) -> float:
        """Tokens per round, the bonus token included, pooled over all rounds; 1 without rounds."""
        rounds = sum(map(sum, self.histograms))
        return sum(self.tokens) / rounds if rounds else 1.0

    @property
    def tau_per_request(self) -> float:
        """Mean over requests of their own tokens per round."""
        taus = [n / sum(h) for n, h in zip(self.tokens, self.histograms, strict=True) if sum(h)]
        return sum(taus) / len(taus) if taus else 1.0

    @property
    def accepted_at_least(self) -> list[float]:
        """Share of rounds in which the first k drafts were accepted, for k = 1 .. block - 1."""
        pooled = [sum(column) for column in zip(*self.histograms, strict=True)]
        total = max(sum(pooled), 1)
        return [sum(pooled[k:]) / total for k in range(1, len(pooled))]

    def to_dict(self) -> dict[str, Any]:
        """Figures for a report."""
        return {
            "requests": len(self.histograms),
            "rounds": sum(map(sum, self.histograms)),
            "tau": round(self.tau, 4),
            "tau_per_request": round(self.tau_per_request, 4),
            "accepted_at_least": [round(x, 4) for x in self.accepted_at_least],
            "histogram": [sum(column) for column in zip(*self.histograms, strict=True)],
        }


def serve(
    engine: Engine,
    prompts: Sequence[Prompt],
    block: int,
    max_tokens: int,
    temperature: float = 0.0,
    seed: int = 1,
) -> tuple[list[list[int]], Acceptance]:
    """Decode every prompt speculatively at the full block; returns answers and their rounds."""
    params = SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed)
    outputs = engine.generate([list(p.token_ids) for p in prompts], params, speculation=block)
    histograms, tokens = [], []
    for output in outputs:
        histogram = list(output.receipt.accepted_histogram)
        histograms.append(histogram + [0] * (block - len(histogram)))
        tokens.append(round(output.receipt.tau * sum(histogram)))
    return [output.token_ids for output in outputs], Acceptance(histograms, tokens)


def walk(matches: Sequence[int], block: int, room: int) -> tuple[list[int], int]:
    """Rounds of speculative decoding over a text whose drafts are known at every position.

    Parameters
    ----------
    matches : for every answer token but the last, how many drafts behind it equal the text.
    room : tokens that the answer may have. It is shorter where it was ended by a token of its own,
        which the engine does not know before it decodes it.

    Returns
    -------
    Histogram of length `block`, and the tokens of its rounds. The first token comes from the
    prefill; a block is shorter where less room is left, as in the engine.
    """
    histogram, tokens = [0] * block, 0
    at, last = 0, len(matches)
    while at < last:
        left = room - 1 - at
        accepted = min(matches[at], block - 1, left - 1)
        emitted = min(accepted + 1, last - at)
        # A round of one row has no drafts and is no speculative round.
        if left > 1:
            histogram[accepted] += 1
            tokens += emitted
        at += emitted
    return histogram, tokens


@torch.no_grad()
def drafts_behind(
    shape: DrafterShape,
    w: Weights,
    frozen: Frozen,
    taps: Tensor,
    tokens: Tensor,
    pos: Tensor,
    chunk: int = 64,
) -> Tensor:
    """Greedy drafts behind anchors of one text: int64 [N, block - 1].

    taps [S, K * hidden], tokens int64 [S], pos int64 [N] ascending anchor positions.
    """
    device = frozen.embed.device
    table = rotary_table(len(tokens) + shape.block, shape.rotary_dim, shape.theta, device)
    taps = taps.to(device, frozen.embed.dtype)[None]
    tokens, pos = tokens.to(device), pos.to(device)
    ctx = context(shape, w, taps, table[:, : taps.shape[1]])
    out = []
    for part in pos.split(chunk):
        h = block_hidden(shape, w, ctx, tokens[part][None], part[None], frozen.embed, table)
        out.append((h[0, :, 1:] @ frozen.head.t()).float().argmax(-1))
    return torch.cat(out).cpu()


def teacher_forced(
    shape: DrafterShape,
    w: Weights,
    frozen: Frozen,
    teacher: Teacher,
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[int]],
    room: int,
) -> Acceptance:
    """Rounds that greedy serving of these answers takes, from one pass over whole texts.

    Answers are the target's own greedy ones, of at most `room` tokens; `w` as used, in its working
    dtype.
    """
    histograms, emitted = [], []
    for prompt, answer in zip(prompts, answers, strict=True):
        if len(answer) < 2:
            histograms.append([0] * shape.block)
            emitted.append(0)
            continue
        text = [*prompt.token_ids, *answer]
        (taps,) = teacher.taps([text])
        tokens, start = torch.tensor(text), len(prompt.token_ids)
        pos = torch.arange(start, len(text) - 1)
        drafts = drafts_behind(shape, w, frozen, taps, tokens, pos)
        at = pos[:, None] + torch.arange(1, shape.block)
        inside = at < len(text)
        right = (drafts == tokens[at.clamp_max(len(text) - 1)]) & inside
        matches = right.long().cumprod(1).sum(1).tolist()
        histogram, count = walk(matches, shape.block, room)
        histograms.append(histogram)
        emitted.append(count)
    return Acceptance(histograms, emitted)


def report(
    target: Path,
    drafter: Path,
    shape: DrafterShape,
    w: Weights,
    frozen: Frozen,
    teacher: Teacher,
    prompts: Sequence[Prompt],
    max_tokens: int,
    temperatures: Sequence[float] = (0.0,),
    threads: int | None = None,
) -> dict[str, Any]:
    """Served and teacher-forced acceptance by category, and over all.

    Teacher forcing is compared at temperature 0, where the text does not depend on noise.
    """
    longest = max(len(p.token_ids) for p in prompts) + max_tokens + 1
    rows: dict[str, Any] = {}
    served_all, forced_all = Acceptance([], []), Acceptance([], [])
    with Engine(
        target,
        drafter=drafter,
        progress=False,
        threads=threads,
        max_positions=longest,
        max_batch=max(1, _UNSHORTENED_ROWS // shape.block),
    ) as engine:
        for category in sorted({p.category for p in prompts}):
            mine = [p for p in prompts if p.category == category]
            answers, served = serve(engine, mine, shape.block, max_tokens)
            forced = teacher_forced(shape, w, frozen, teacher, mine, answers, max_tokens)
            rows[category] = compare(served, forced)
            for whole, part in ((served_all, served), (forced_all, forced)):
                whole.histograms.extend(part.histograms)
                whole.tokens.extend(part.tokens)
            for temperature in temperatures:
                if temperature > 0:
                    _, warm = serve(engine, mine, shape.block, max_tokens, temperature)
                    rows[category][f"served_t{temperature:g}"] = warm.to_dict()
    return {"all": compare(served_all, forced_all), "categories": rows}


def compare(served: Acceptance, forced: Acceptance) -> dict[str, Any]:
    """Both, and by how much teacher forcing is above serving, percent."""
    return {
        "served": served.to_dict(),
        "teacher_forced": forced.to_dict(),
        "difference_percent": round(100 * (forced.tau / served.tau - 1), 3),
    }
