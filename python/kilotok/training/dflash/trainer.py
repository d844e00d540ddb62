"""The training loop: a pure function of seed and step, over any number of ranks."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kilotok.training.dflash.anchors import draw_anchors
from kilotok.training.dflash.answers import Answers
from kilotok.training.dflash.loss import Batch, Weighting, block_loss
from kilotok.training.dflash.model import Weights, rotary_table
from kilotok.training.dflash.optimizer import Optimizer, Rates, cosine
from kilotok.training.dflash.ranks import Ranks
from kilotok.training.dflash.shape import DrafterShape
from kilotok.training.dflash.state import load_state, save_state
from kilotok.training.dflash.taps import Taps
from kilotok.training.dflash.teacher import Frozen

__all__ = ["Plan", "Trainer"]


@dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes
    ----------
    steps : optimiser steps, the length of the schedule.
    minutes : wall-clock length of the schedule in place of `steps`; such a run is not repeatable.
    batch : texts per step, over all ranks and accumulation steps.
    accumulate : parts that a rank's texts are computed in.
    anchors : per text. chunk : anchors at once (0: all); see `block_loss`.
    pad_to : length every batch is padded to, so that a compiled step has one shape; 0: its longest.
    """

    steps: int
    batch: int
    anchors: int
    minutes: float | None = None
    accumulate: int = 1
    chunk: int = 0
    pad_to: int = 0
    optimizer: str = "muon"
    rates: Rates = field(default_factory=Rates)
    warmup: float = 0.04
    weighting: Weighting = field(default_factory=Weighting)
    seed: int = 1
    dtype: torch.dtype = torch.bfloat16
    checkpoint_every: int = 500
    log_every: int = 20
    compile: bool = False


class Trainer:
    """A drafter in training.

    Parameters
    ----------
    masters : float32 weights to start from; moved to the rank's device and updated.
    frozen : the target's embedding and head.
    folder : where `state.pt` and `history.jsonl` go.
    """

    def __init__(
        self,
        shape: DrafterShape,
        masters: Weights,
        frozen: Frozen,
        answers: Answers,
        taps: Taps,
        plan: Plan,
        ranks: Ranks,
        folder: Path,
    ) -> None:
        self.shape, self.plan, self.ranks, self.folder = shape, plan, ranks, folder
        self.answers, self.taps, self.frozen = answers, taps, frozen
        moved = {n: t.to(ranks.device, torch.float32) for n, t in masters.items()}
        self.optimizer = Optimizer(moved, plan.dtype, plan.optimizer, plan.rates)
        self.lengths = torch.from_numpy(answers.lengths())
        self.offsets = torch.from_numpy(answers.offsets)
        # Small beside everything else, and a step that copies no texts never waits for the device.
        self.tokens = torch.from_numpy(answers.tokens.astype(np.int32)).to(ranks.device)
        self.prompts = torch.from_numpy(answers.prompt)
        longest = max(int(self.lengths.max()), plan.pad_to) + shape.block
        self.table = rotary_table(longest, shape.rotary_dim, shape.theta, ranks.device)
        self.spent = 0.0
        self._epoch: tuple[int, np.ndarray] | None = None
        self._loss: Callable[..., tuple[Tensor, Tensor, Tensor]] = block_loss

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return self.optimizer.steps

    def resume(self) -> bool:
        """Continue from `state.pt`, if it is there; returns whether it was.

        Raises
        ------
        InvalidRequestError
            It is of another run: other answers, shape or plan.
        """
        state = load_state(self.folder, self._identity(), self.ranks.device)
        if state is None:
            return False
        self.optimizer.load_state(state["optimizer"])
        self.spent = state["spent"]
        if self.ranks.is_first:
            self._forget_after(self.step)
        return True

    def run(self, until: int | None = None) -> None:
        """Train to the end of the schedule, or until that many steps are done."""
        # The schedule is for training, not for the compiler.
        if self.plan.compile and self._progress() < 1:
            self._compile()
        began, mark, last = time.monotonic() - self.spent, self.step, time.monotonic()
        while True:
            self.spent = time.monotonic() - began
            progress = self._progress()
            if progress >= 1 or (until is not None and self.step >= until):
                break
            loss, norm, right = self._one_step(progress)
            is_due = self.step % self.plan.log_every == 0 or self.step == 1
            if is_due and self.ranks.is_first:
                now = time.monotonic()
                speed, mark, last = (self.step - mark) / (now - last), self.step, now
                self._log(float(loss), float(norm), right, speed)
            if self.step % self.plan.checkpoint_every == 0:
                self.save()
        self.save()

    def save(self) -> None:
        """Write `state.pt`, on the first rank."""
        if self.ranks.is_first:
            state = {"optimizer": self.optimizer.state(), "spent": self.spent}
            save_state(self.folder, self._identity(), state)

    def _forget_after(self, step: int) -> None:
        """Drop lines of steps that will be done again."""
        path = self.folder / "history.jsonl"
        if path.exists():
            lines = path.read_text().splitlines()
            kept = [line for line in lines if json.loads(line)["step"] <= step]
            path.write_text("".join(f"{line}\n" for line in kept))

    def _progress(self) -> float:
        if self.plan.minutes is None:
            return self.step / self.plan.steps
        # Ranks must agree on the rate, and on when to stop.
        return self.ranks.first_says(self.spent / (60 * self.plan.minutes))

    def _compile(self) -> None:
        """Compile the step, forwards and backwards; it stays eager where that fails."""
        self._loss = torch.compile(block_loss, dynamic=False)
        began = time.monotonic()
        try:
            self._gradients()
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:
            # The compiler raises whatever its own code and the C compiler raise.
            print(f"compile: step stays eager: {error!r:.500}", file=sys.stderr, flush=True)
            self._loss = block_loss
            for weights in self._weights():
                weights.grad = None
        else:
            spent = time.monotonic() - began
            print(f"compile: step in {spent:.0f} s", file=sys.stderr, flush=True)

    def _one_step(self, progress: float) -> tuple[Tensor, Tensor, Tensor]:
        grads, total, hits = self._gradients()
        self.ranks.sum([*grads.values(), total, hits])
        torch._foreach_div_(list(grads.values()), total[1].clamp_min(1e-6))
        factor = cosine(progress, self.plan.warmup)
        norm = self.optimizer.step(grads, factor)
        return total[0] / total[1], norm, hits

    def _gradients(self) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Gradients of this rank's texts of the step, not yet divided.

        Returns
        -------
        grads : float32 by name
        total : float32 [2], loss and its denominator
        hits : float32 [block], see `_survival`
        """
        chosen, pos, valid = self._draw(self.step)
        mine = np.array_split(np.arange(len(chosen)), self.ranks.world)[self.ranks.rank]
        grads: dict[str, Tensor] = {}
        total = torch.zeros(2, device=self.ranks.device)
        hits = torch.zeros(self.shape.block, device=self.ranks.device)
        for part in np.array_split(mine, self.plan.accumulate):
            if not len(part):
                continue
            batch = self._batch(chosen[part], pos[part], valid[part])
            loss, weight, right = self._loss(
                self.shape,
                self.optimizer.weights,
                batch,
                self.frozen.embed,
                self.frozen.head,
                self.table,
                self.plan.weighting,
                self.plan.chunk,
            )
            loss.backward()
            with torch.no_grad():
                # Working copies may be BF16; sums over parts and ranks are not.
                more = [w.grad.float() for w in self._weights()]
                if grads:
                    torch._foreach_add_(list(grads.values()), more)
                else:
                    grads = dict(zip(self.optimizer.weights, more, strict=True))
                for weights in self._weights():
                    weights.grad = None
                total += torch.stack([loss.detach(), weight])
                hits += _survival(right)
        if not grads:
            grads = {n: torch.zeros_like(m) for n, m in self.optimizer.masters.items()}
        return grads, total, hits

    def _weights(self) -> list[Tensor]:
        return list(self.optimizer.weights.values())

    def _draw(self, step: int) -> tuple[np.ndarray, Tensor, Tensor]:
        """Texts and anchors of one step, the same on every rank."""
        count = len(self.answers)
        at = np.arange(step * self.plan.batch, (step + 1) * self.plan.batch)
        chosen = np.empty(len(at), np.int64)
        for epoch in {*(at // count).tolist()}:
            order = self._order(epoch)
            here = at // count == epoch
            chosen[here] = order[at[here] % count]
        gen = torch.Generator().manual_seed(self.plan.seed * 1_000_003 + step)
        length = self.lengths[chosen]
        pos, valid = draw_anchors(self.prompts[chosen], length, self.plan.anchors, gen)
        return chosen, pos, valid

    def _order(self, epoch: int) -> np.ndarray:
        if self._epoch is None or self._epoch[0] != epoch:
            rng = np.random.default_rng([self.plan.seed, 1, epoch])
            self._epoch = (epoch, rng.permutation(len(self.answers)))
        return self._epoch[1]

    def _batch(self, chosen: np.ndarray, pos: Tensor, valid: Tensor) -> Batch:
        length = self.lengths[chosen]
        size = max(int(length.max()), self.plan.pad_to)
        ends, starts = self._sent(length), self._sent(self.offsets[chosen])
        at = torch.arange(size, device=self.ranks.device)
        rows = (starts[:, None] + at).clamp_max(len(self.tokens) - 1)
        tokens = self.tokens[rows].long().masked_fill(at >= ends[:, None], 0)
        taps = self.taps.padded(chosen.tolist(), tokens, rows).to(self.plan.dtype)
        return Batch(tokens, taps, ends, self._sent(pos), self._sent(valid))

    def _sent(self, tensor: Tensor) -> Tensor:
        """A copy on the rank's device, that is not waited for."""
        if self.ranks.device.type == "cuda":
            return tensor.pin_memory().to(self.ranks.device, non_blocking=True)
        return tensor.to(self.ranks.device)

    def _identity(self) -> dict[str, Any]:
        plan = self.plan
        return {
            "answers": self.answers.digest(),
            "shape": repr(self.shape),
            "schedule": [plan.steps, plan.minutes, plan.batch, plan.anchors, plan.seed],
            "optimizer": [plan.optimizer, repr(plan.rates), plan.warmup, repr(plan.weighting)],
        }

    def _log(self, loss: float, norm: float, hits: Tensor, speed: float) -> None:
        reached = (hits[1:] / hits[0].clamp_min(1)).tolist()
        record = {
            "step": self.step,
            "loss": round(loss, 5),
            "tau": round(1 + sum(reached), 4),
            "accepted_at_least": [round(r, 4) for r in reached],
            "gradient_norm": round(norm, 4),
            "seconds": round(self.spent, 1),
        }
        with (self.folder / "history.jsonl").open("a") as history:
            history.write(json.dumps(record) + "\n")
        print(
            f"train: step {self.step} loss {loss:.4f} tau on training text {record['tau']:.2f} "
            f"({speed:.1f} steps/s)",
            file=sys.stderr,
            flush=True,
        )


@torch.no_grad()
def _survival(right: Tensor) -> Tensor:
    """Blocks with a label everywhere, then how many have their first k drafts right, k = 1.. ."""
    whole = ~right.isnan().any(-1)
    reached = right.nan_to_num(0).cumprod(-1) * whole[..., None]
    return torch.cat([whole.sum().view(1).float(), reached.sum((0, 1))])
