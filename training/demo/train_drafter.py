"""Stage `drafter`: trains the DFlash block drafter on the target's own text."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from training.demo.device import compiled_or_eager, pick_device, synchronize
from training.demo.drafter import block_loss, init_drafter, rotary
from training.demo.generate import load_working
from training.demo.optimizer import Optimizer
from training.demo.preset import Preset
from training.demo.target import Target


def draw_anchors(
    prompt: torch.Tensor, length: int, count: int, gen: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distinct random anchor positions in [prompt, length - 2] of every row.

    Returns positions int64 [B, count] and whether each is usable (a row may have fewer).
    """
    at = torch.arange(length)
    usable = (at >= prompt[:, None]) & (at < length - 1)
    score = torch.rand(len(prompt), length, generator=gen).masked_fill(~usable, -1.0)
    best, pos = score.topk(min(count, length - 1), dim=1)
    return pos, best >= 0


def run(
    preset: Preset, run_dir: Path, seed: int, seconds: float | None, steps: int | None, eager: bool
) -> None:
    """Train and save `drafter.pt` and `drafter.json`; linear decay of the rate to 0."""
    cfg, train = preset.drafter, preset.train
    device = pick_device()
    w = load_working(preset.target, run_dir, "qat", device)
    tokens = torch.from_numpy(np.load(run_dir / "generated.npy").view(np.int16)).to(device)
    prompts = torch.from_numpy(np.load(run_dir / "generated_prompt.npy")).long()
    length = tokens.shape[1]
    table = rotary(cfg, preset.target.max_position, device)
    masters = {
        n: t.to(device) for n, t in init_drafter(cfg, preset.target.hidden, seed + 5).items()
    }
    optimizer = Optimizer(masters, lambda _, m: m.bfloat16(), lambda _: True, decay=0.1)
    gen = torch.Generator().manual_seed(seed + 6)

    def step_of(compile_with: Callable) -> Callable:
        target = Target(preset.target, device, compile_with)
        loss_of = compile_with(lambda *a: block_loss(cfg, *a))

        def go(rows: torch.Tensor, pos: torch.Tensor, valid: torch.Tensor) -> tuple:
            text = tokens[rows.to(device)].long()
            with torch.no_grad():
                taps = torch.cat(target.hidden(w, text, cfg.taps)[2], -1).bfloat16()
            return loss_of(
                optimizer.weights,
                taps,
                text,
                pos.to(device),
                valid.to(device),
                w["embed"],
                w["head"],
                table,
            )

        return go

    def probe(compile_with: Callable) -> None:
        rows = torch.arange(train.drafter_batch) % len(tokens)
        pos, valid = draw_anchors(
            prompts[rows], length, train.anchors, torch.Generator().manual_seed(0)
        )
        step_of(compile_with)(rows, pos, valid)[0].backward()
        for t in optimizer.weights.values():
            t.grad = None

    go = step_of(compiled_or_eager(probe, device, eager))
    budget = seconds or train.drafter_seconds
    order, cursor = torch.randperm(len(tokens), generator=gen), 0
    began = last = time.monotonic()
    step = since = 0
    history, record = [], {}
    while True:
        elapsed = time.monotonic() - began
        progress = step / steps if steps else elapsed / budget
        if progress >= 1:
            break
        if cursor + train.drafter_batch > len(order):
            order, cursor = torch.randperm(len(tokens), generator=gen), 0
        rows = order[cursor : cursor + train.drafter_batch]
        cursor += train.drafter_batch
        pos, valid = draw_anchors(prompts[rows], length, train.anchors, gen)
        loss, right = go(rows, pos, valid)
        loss.backward()
        rate = min(1.0, (step + 1) / 100) * min(1.0, (1 - progress) / 0.6)
        optimizer.step(train.drafter_muon_lr * rate, train.drafter_adam_lr * rate)
        step += 1
        since += 1
        if step % 8 == 0:
            synchronize(device)
        now = time.monotonic()
        if now - last > 10 or step in (1, 20):
            hit = right.nanmean((0, 1))
            run_length = right.nan_to_num(0).cumprod(-1)[~right.isnan().any(-1)].sum(-1).mean()
            speed = since / (time.monotonic() - last)
            record = {
                "step": step,
                "loss": round(loss.item(), 4),
                "tau": round(1 + run_length.item(), 3),
            }
            history.append(record)
            print(
                f"drafter: step {step} loss {loss.item():.4f} tau on training text "
                f"{record['tau']:.2f} per slot {[round(x, 2) for x in hit.tolist()]} "
                f"{speed:.1f} steps/s {now - began:.0f} s",
                flush=True,
            )
            since, last = 0, time.monotonic()
    synchronize(device)
    torch.save({"masters": masters}, run_dir / "drafter.pt")
    spent = time.monotonic() - began
    summary = {
        "stage": "drafter",
        "steps": step,
        "seconds": round(spent, 1),
        "seed": seed,
        "blocks": step * train.drafter_batch * train.anchors,
        "sequences": len(tokens),
        "parameters": sum(m.numel() for m in masters.values()),
        "history": history,
    }
    (run_dir / "drafter.json").write_text(json.dumps(summary, indent=1))
    print(f"drafter: {step} steps in {spent:.0f} s", flush=True)
