"""Stages `trunk`, `bf16` and `qat`: a shared run at constant learning rate, then two branches.

Both branches continue from the trunk on the same batches with the same learning-rate decay. One
keeps BF16 weights (the baseline), the other rounds them to the checkpoint's formats at every step.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from training.demo.device import Batches, compiled_or_eager, pick_device, synchronize
from training.demo.optimizer import Optimizer
from training.demo.preset import Preset
from training.demo.rounding import working_weight
from training.demo.target import Target, init_target
from training.demo.vocabulary import MASK

_WARMUP = 100


def uses_muon(name: str) -> bool:
    """Muon is for hidden matrices: not embedding, head or router."""
    return name.rpartition(".")[2] not in ("embed", "head", "router")


def run(
    preset: Preset,
    run_dir: Path,
    seed: int,
    stage: str,
    seconds: float | None,
    steps: int | None,
    eager: bool,
) -> None:
    """Train one stage and save `{stage}.pt` (masters) and `{stage}.json`.

    A stage ends after `steps` if given, else after its wall-clock budget; the branches take the
    number of steps from the first of them to run, so that they see the same data.
    """
    cfg, train = preset.target, preset.train
    device = pick_device()
    quantised = stage == "qat"
    batches = Batches(run_dir, "train", train.mix, device)
    gen = torch.Generator()
    if stage == "trunk":
        masters = {n: t.to(device) for n, t in init_target(cfg, seed, MASK).items()}
        gen.manual_seed(seed + 1)
        budget = seconds or train.trunk_seconds
    else:
        saved = torch.load(run_dir / "trunk.pt", map_location=device, weights_only=True)
        masters = saved["masters"]
        gen.manual_seed(seed + 2)
        budget = seconds or train.branch_seconds
        steps = steps or _branch_steps(run_dir, stage, budget)
    optimizer = Optimizer(
        masters,
        lambda n, m: working_weight(cfg, n, m, quantised),
        uses_muon,
        frozen=lambda n: n.endswith(".bias"),
    )
    if stage != "trunk":
        optimizer.load_state(saved["optimizer"])

    def probe(compile_with: Callable) -> None:
        loss, _ = Target(cfg, device, compile_with).token_losses(
            optimizer.weights,
            batches.draw(train.batch, train.seq + 1, torch.Generator().manual_seed(0)),
        )
        loss.mean().backward()
        for w in optimizer.weights.values():
            w.grad = None

    model = Target(cfg, device, compiled_or_eager(probe, device, eager))
    biases = [n for n in masters if n.endswith(".bias")]
    history: list[dict] = []
    began = last = time.monotonic()
    step = since = 0
    total = torch.zeros((), device=device)
    while True:
        elapsed = time.monotonic() - began
        done = step >= steps if steps else elapsed >= budget
        if done:
            break
        rate = min(1.0, (step + 1) / _WARMUP) if stage == "trunk" else 1.0 - step / steps
        tokens = batches.draw(train.batch, train.seq + 1, gen)
        losses, loads = model.token_losses(optimizer.weights, tokens)
        loss = losses.mean()
        loss.backward()
        optimizer.step(train.muon_lr * rate, train.adam_lr * rate)
        balance(optimizer, biases, loads, train.bias_rate * rate)
        total += loss.detach()
        step += 1
        since += 1
        if step % 8 == 0:
            # Keep the host near the device, or the wall-clock budget means nothing.
            synchronize(device)
        now = time.monotonic()
        if now - last > 10 or step in (1, 20):
            mean = total.item() / since
            rate_tokens = since * train.batch * train.seq / (time.monotonic() - last)
            worst = max(float(x.max()) for x in loads) * cfg.experts / cfg.top_k
            print(
                f"{stage}: step {step} loss {mean:.4f} nats {rate_tokens / 1e3:.0f} ktok/s "
                f"lr x{rate:.2f} busiest expert x{worst:.2f} {now - began:.0f} s",
                flush=True,
            )
            history.append({"step": step, "loss": round(mean, 4), "seconds": round(now - began, 1)})
            total.zero_()
            since, last = 0, time.monotonic()
    synchronize(device)
    spent = time.monotonic() - began
    torch.save(
        {"masters": masters, "optimizer": optimizer.state()}
        if stage == "trunk"
        else {"masters": masters},
        run_dir / f"{stage}.pt",
    )
    record = {
        "stage": stage,
        "steps": step,
        "seconds": round(spent, 1),
        "seed": seed,
        "tokens": step * train.batch * train.seq,
        "tokens_per_s": round(step * train.batch * train.seq / spent),
        "parameters": sum(m.numel() for m in masters.values()),
        "history": history,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
    }
    (run_dir / f"{stage}.json").write_text(json.dumps(record, indent=1))
    print(f"{stage}: {step} steps, {record['tokens_per_s']} tokens/s, {spent:.0f} s", flush=True)


@torch.no_grad()
def balance(optimizer: Optimizer, biases: list[str], loads: list[Tensor], rate: float) -> None:
    """Loss-free balancing: raise the selection bias of experts used less than average."""
    for name, load in zip(biases, loads, strict=True):
        bias = optimizer.masters[name]
        bias += rate * torch.sign(load.mean() - load)
        bias -= bias.mean()
        optimizer.weights[name].copy_(bias)


def _branch_steps(run_dir: Path, stage: str, budget: float) -> int:
    other = run_dir / ("bf16.json" if stage == "qat" else "qat.json")
    if other.exists():
        return json.loads(other.read_text())["steps"]
    trunk = json.loads((run_dir / "trunk.json").read_text())
    return max(1, int(trunk["steps"] / trunk["seconds"] * budget * 0.95))
