"""Where and how things run: device choice, optional compilation, batch sampling, timing."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.demo.data import CATEGORIES, load_stream


def pick_device() -> torch.device:
    """CUDA if there is any, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronize(device: torch.device) -> None:
    """Wait for the device; nothing to wait for on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compiled_or_eager(
    probe: Callable[[Callable], object], device: torch.device, eager: bool
) -> Callable:
    """`torch.compile` if a probe run (forward and backward) works with it, else the identity.

    `probe(compile_with)` builds what it needs with the given decorator, runs it once and returns
    nothing of interest. A failure is printed and costs speed, not the run.
    """
    if eager or device.type != "cuda":
        return lambda f: f
    # One code object serves several layer kinds, each in training and inference mode.
    torch._dynamo.config.cache_size_limit = 64

    def compile_with(f: Callable) -> Callable:
        return torch.compile(f, dynamic=False)

    began = time.monotonic()
    try:
        probe(compile_with)
        synchronize(device)
    except Exception:
        traceback.print_exc()
        print("compile: failed, continuing in eager mode", flush=True)
        torch._dynamo.reset()
        return lambda f: f
    print(f"compile: ready in {time.monotonic() - began:.1f} s", flush=True)
    return compile_with


class Batches:
    """Random windows of the token streams, mixed by category; the same for the same seed."""

    def __init__(
        self, run_dir: Path, split: str, mix: dict[str, float], device: torch.device
    ) -> None:
        streams = [load_stream(run_dir, split, c) for c in CATEGORIES]
        self.starts = np.cumsum([0, *map(len, streams)])
        self.mix = mix
        self.device = device
        self.tokens = torch.from_numpy(np.concatenate(streams).astype(np.int16)).to(device)

    def draw(
        self, rows: int, width: int, gen: torch.Generator, mix: dict[str, float] | None = None
    ) -> Tensor:
        """int64 [rows, width]; `gen` is a CPU generator and the only source of randomness."""
        shares = np.array([(mix or self.mix)[c] for c in CATEGORIES])
        edges = np.round(np.cumsum(shares / shares.sum()) * rows).astype(int)
        counts = np.diff([0, *edges])
        offsets = []
        for i, count in enumerate(counts):
            length = int(self.starts[i + 1] - self.starts[i])
            if count and length <= width:
                raise ValueError(f"{CATEGORIES[i]} stream has {length} tokens, expected > {width}")
            if count:
                offsets.append(
                    int(self.starts[i]) + torch.randint(length - width, (count,), generator=gen)
                )
        index = torch.cat(offsets).to(self.device, non_blocking=True)[:, None]
        return self.tokens[index + torch.arange(width, device=self.device)].long()
