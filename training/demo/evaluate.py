"""Stage `evaluate`: bits per byte of the three variants, and acceptance of the drafter."""

from __future__ import annotations

import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from training.demo.data import CATEGORIES, load_stream
from training.demo.device import pick_device
from training.demo.generate import load_working
from training.demo.preset import Preset
from training.demo.rounding import EXPERTS, working_weight, working_weights
from training.demo.speculate import Decoded, Speculator
from training.demo.target import Target
from training.demo.vocabulary import END_OF_TEXT, IM_END, token_bytes


def run(preset: Preset, run_dir: Path, seed: int) -> None:
    """Write eval.json; prints the two bars (QAT within 0.5 % of BF16, tau >= 3 on code, greedy)."""
    began = time.monotonic()
    device = pick_device()
    bits = bits_per_byte(preset, run_dir, device)
    print(
        f"evaluate: bits per byte {json.dumps(bits)} at {time.monotonic() - began:.0f} s",
        flush=True,
    )
    record = {"bits_per_byte": bits, "acceptance": acceptance(preset, run_dir, seed, device)}
    gap = bits["qat"]["code"] / bits["bf16"]["code"] - 1
    overall = bits["qat"]["all"] / bits["bf16"]["all"] - 1
    tau = record["acceptance"]["code"]["greedy"]["tau_pooled"]
    record["bars"] = {
        "qat_over_bf16_percent": {"code": round(100 * gap, 3), "all": round(100 * overall, 3)},
        "qat_within_0.5_percent": overall <= 0.005,
        "tau_code_greedy": tau,
        "tau_at_least_3": tau >= 3.0,
    }
    (run_dir / "eval.json").write_text(json.dumps(record, indent=1))
    print(
        f"evaluate: bars {json.dumps(record['bars'])} in {time.monotonic() - began:.0f} s",
        flush=True,
    )


@torch.no_grad()
def bits_per_byte(preset: Preset, run_dir: Path, device: torch.device) -> dict:
    """Held-out bits per byte by variant and category.

    Windows do not overlap; special tokens count neither as bits nor as bytes. `ptq_experts`
    rounds only the experts of the BF16 branch, `ptq` also qkv and layer 0 (the same formats as
    `qat`). `all` is the mean of the categories weighted by
    the training mix.
    """
    cfg, train = preset.target, preset.train
    tokenizer = Tokenizer.from_file(str(run_dir / "tokenizer.json"))
    sizes = torch.from_numpy(token_bytes(tokenizer, cfg.vocab)).to(device)
    masters = torch.load(run_dir / "bf16.pt", map_location=device, weights_only=True)["masters"]
    variants = {
        "bf16": working_weights(cfg, masters, quantised=False),
        "ptq_experts": {
            n: working_weight(cfg, n, m, quantised=n.rpartition(".")[2] in EXPERTS)
            for n, m in masters.items()
        },
        "ptq": working_weights(cfg, masters, quantised=True),
        "qat": load_working(cfg, run_dir, "qat", device),
    }
    model = Target(cfg, device)
    result: dict[str, dict[str, float]] = {name: {} for name in variants}
    counted = {}
    for kind in CATEGORIES:
        stream = load_stream(run_dir, "heldout", kind)
        rows = min(len(stream) - 1, train.eval_tokens) // train.seq
        tokens = torch.from_numpy(stream[: rows * train.seq + 1].astype(np.int64)).to(device)
        windows = tokens.unfold(0, train.seq + 1, train.seq)
        text = sizes[windows[:, 1:]]
        counted[kind] = {"tokens": windows[:, 1:].numel(), "bytes": int(text.sum())}
        for name, w in variants.items():
            nats = 0.0
            for part, size in zip(windows.split(16), text.split(16), strict=True):
                losses, _ = model.token_losses(w, part)
                nats += float((losses.view_as(size) * (size > 0)).double().sum())
            result[name][kind] = round(nats / math.log(2) / int(text.sum()), 5)
    mix = train.mix
    for name in variants:
        result[name]["all"] = round(
            sum(result[name][k] * mix[k] for k in CATEGORIES) / sum(mix.values()), 5
        )
    return result | {"counted": counted}


def acceptance(preset: Preset, run_dir: Path, seed: int, device: torch.device) -> dict:
    """tau at the full block, by category, greedy and at T = 1, against plain decoding."""
    train = preset.train
    w = load_working(preset.target, run_dir, "qat", device)
    masters = torch.load(run_dir / "drafter.pt", map_location=device, weights_only=True)["masters"]
    drafter = {n: m.bfloat16() for n, m in masters.items()}
    rng = random.Random(seed + 7)
    result: dict[str, dict] = {}
    for kind in CATEGORIES:
        prompts = heldout_prompts(preset, run_dir, kind, rng)
        result[kind] = {}
        for name, temperature in (("greedy", 0.0), ("t1", 1.0)):
            speculator = Speculator(
                preset.target,
                w,
                preset.drafter,
                drafter,
                prompts,
                train.eval_new_tokens,
                (END_OF_TEXT, IM_END),
                temperature,
                seed + 8,
            )
            drafted, plain = speculator.decode(preset.drafter.block), speculator.decode(1)
            row = summarize(drafted, preset.drafter.block)
            row["same_as_plain"] = sum(
                a.tokens == b.tokens for a, b in zip(drafted, plain, strict=True)
            ) / len(plain)
            result[kind][name] = row
            print(f"evaluate: {kind} {name} {json.dumps(row)}", flush=True)
    return result


def heldout_prompts(
    preset: Preset, run_dir: Path, kind: str, rng: random.Random
) -> list[list[int]]:
    """Code and prose: held-out windows cut at random; maths and tools: whole user turns."""
    train = preset.train
    if kind in ("code", "prose"):
        stream = load_stream(run_dir, "heldout", kind)
        low, high = train.eval_prompt
        prompts = []
        for _ in range(train.eval_requests):
            size = rng.randint(low, high)
            start = rng.randrange(len(stream) - size)
            prompts.append(stream[start : start + size].tolist())
        return prompts
    tokenizer = Tokenizer.from_file(str(run_dir / "tokenizer.json"))
    texts = json.loads((run_dir / "prompts.json").read_text())[kind]
    return [
        tokenizer.encode(t).ids for t in rng.sample(texts, min(train.eval_requests, len(texts)))
    ]


def summarize(decoded: list[Decoded], block: int) -> dict:
    """tau pooled over rounds and averaged over requests; the bonus token counts."""
    rounds = [n for d in decoded for n in d.emitted]
    per_request = [sum(d.emitted) / len(d.emitted) for d in decoded if d.emitted]
    accepted = [a for d in decoded for a in d.accepted]
    return {
        "requests": len(decoded),
        "rounds": len(rounds),
        "new_tokens": sum(len(d.tokens) for d in decoded),
        "tau_pooled": round(sum(rounds) / max(len(rounds), 1), 3),
        "tau_per_request": round(sum(per_request) / max(len(per_request), 1), 3),
        "accepted_at_least": [
            round(sum(a >= k for a in accepted) / max(len(accepted), 1), 3) for k in range(1, block)
        ],
        "repeated_8grams": round(sum(map(repetition, decoded)) / len(decoded), 3),
    }


def repetition(decoded: Decoded, size: int = 8) -> float:
    """Share of a request's 8-grams that occurred earlier in its own output."""
    grams = [tuple(decoded.tokens[i : i + size]) for i in range(len(decoded.tokens) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
