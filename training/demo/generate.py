"""Stage `generate`: the target writes the drafter's training text."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.demo.cached import CachedTarget
from training.demo.device import Batches, pick_device
from training.demo.preset import Preset, TargetConfig
from training.demo.rounding import working_weights

TEMPERATURES = (0.0, 0.7, 1.0)
#: Half of every wave is greedy: that is how the drafter is first of all used.
_SHARES = (0.5, 0.25, 0.25)


def load_working(
    cfg: TargetConfig, run_dir: Path, branch: str, device: torch.device
) -> dict[str, Tensor]:
    """Weights of a branch in the checkpoint's formats (`qat`) or BF16 (`bf16`)."""
    saved = torch.load(run_dir / f"{branch}.pt", map_location=device, weights_only=True)
    return working_weights(cfg, saved["masters"], quantised=branch == "qat")


@torch.no_grad()
def continue_prompts(
    cfg: TargetConfig,
    w: dict[str, Tensor],
    prompts: Tensor,
    length: int,
    temperature: Tensor,
    gen: torch.Generator,
) -> Tensor:
    """Sample continuations in lockstep: prompts int64 [B, P] -> int64 [B, length].

    temperature float32 [B], 0 for greedy. Sampling is Gumbel-max on `gen` (a generator of the
    device). Nothing stops a sequence early: after a document ends the model starts another.
    """
    batch, size = prompts.shape
    model = CachedTarget(cfg, w, batch, length)
    tokens = torch.zeros(batch, length, dtype=torch.long, device=prompts.device)
    tokens[:, :size] = prompts
    last = torch.empty(batch, 1, cfg.hidden, device=prompts.device)
    pos = torch.arange(size, device=prompts.device)
    for start in range(0, batch, 512):
        rows = slice(start, start + 512)
        x, _ = model.forward(prompts[rows], pos.expand(len(prompts[rows]), size), size, rows=rows)
        last[rows] = x[:, -1:]
    sampled = (temperature > 0).nonzero().flatten()
    for at in range(size, length):
        logits = model.head(last)[:, 0]
        choice = logits.argmax(-1)
        if len(sampled):
            noise = torch.empty(len(sampled), logits.shape[1], device=logits.device)
            noise.exponential_(generator=gen).log_()
            choice[sampled] = (logits[sampled] / temperature[sampled, None] - noise).argmax(-1)
        tokens[:, at] = choice
        if at + 1 < length:
            here = torch.full((batch, 1), at, device=prompts.device)
            last, _ = model.forward(choice[:, None], here, at + 1, lowest=at)
    return tokens


def run(preset: Preset, run_dir: Path, seed: int, seconds: float | None) -> None:
    """Write `generated.npy` (uint16 [N, S]) and `generated_prompt.npy` (its prompt lengths)."""
    cfg, train = preset.target, preset.train
    device = pick_device()
    w = load_working(cfg, run_dir, "qat", device)
    batches = Batches(run_dir, "train", train.mix, device)
    cpu_gen = torch.Generator().manual_seed(seed + 3)
    gen = torch.Generator(device).manual_seed(seed + 4)
    counts = np.diff([0, *np.round(np.cumsum(_SHARES) * train.generate_batch).astype(int)])
    temperature = torch.cat(
        [torch.full((n,), t) for n, t in zip(counts, TEMPERATURES, strict=True)]
    )
    temperature = temperature.to(device)
    # The drafter sees more of the structured categories than the target did.
    mix = {"code": 0.55, "prose": 0.15, "math": 0.15, "tool": 0.15}
    out, sizes = [], []
    began = time.monotonic()
    budget = seconds or train.generate_seconds
    wave = 0
    while wave == 0 or time.monotonic() - began < budget:
        size = train.generate_prompts[wave % len(train.generate_prompts)]
        prompts = batches.draw(train.generate_batch, size, cpu_gen, mix)
        order = torch.randperm(train.generate_batch, generator=cpu_gen).to(device)
        text = continue_prompts(cfg, w, prompts[order], train.generate_seq, temperature, gen)
        out.append(text.to(torch.int16).cpu().numpy().view(np.uint16))
        sizes.append(np.full(len(text), size, np.int32))
        wave += 1
        made = sum(o.shape[0] * (o.shape[1] - s[0]) for o, s in zip(out, sizes, strict=True))
        spent = time.monotonic() - began
        print(
            f"generate: wave {wave}, {made / 1e6:.2f} M tokens, {made / spent / 1e3:.0f} ktok/s",
            flush=True,
        )
    np.save(run_dir / "generated.npy", np.concatenate(out))
    np.save(run_dir / "generated_prompt.npy", np.concatenate(sizes))
    record = {
        "waves": wave,
        "new_tokens": int(made),
        "seconds": round(spent, 1),
        "seed": seed,
        "mix": mix,
        "temperatures": dict(zip(map(str, TEMPERATURES), _SHARES, strict=True)),
    }
    (run_dir / "generate.json").write_text(json.dumps(record, indent=1))
