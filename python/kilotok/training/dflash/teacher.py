"""What the target computes: its text and its residuals, from the engine or from torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from kilotok import _core
from kilotok.engine import Engine
from kilotok.errors import ModelFormatError
from kilotok.sampling import SamplingParams

__all__ = [
    "EngineTeacher",
    "EngineWriter",
    "Frozen",
    "PaddedTeacher",
    "Teacher",
    "frozen_parts",
    "target_sizes",
]


class Teacher(Protocol):
    """Reads texts for their taps."""

    def taps(self, texts: Sequence[Sequence[int]]) -> list[Tensor]:
        """Per text BF16 [n, K * hidden], on any device."""


@runtime_checkable
class PaddedTeacher(Protocol):
    """A teacher on the training device, that reads a whole batch at once."""

    def padded_taps(self, tokens: Tensor) -> Tensor:
        """int64 [B, S] -> [B, S, K * hidden], padding included."""


class EngineTeacher:
    """Taps as the engine computes them, in batches.

    Parameters
    ----------
    target : checkpoint directory.
    layers : 0-based layers to tap.
    max_positions : longest text.
    """

    def __init__(
        self,
        target: Path,
        layers: Sequence[int],
        max_positions: int,
        threads: int | None = None,
    ) -> None:
        self._open = lambda: _core.open_taps(
            str(target), list(layers), max_positions=max_positions, threads=threads
        )
        self._reader: _core.TapReader | None = None
        self._columns = len(layers)

    def taps(self, texts: Sequence[Sequence[int]]) -> list[Tensor]:
        """As `Teacher.taps`, on the CPU. The target is loaded by the first call."""
        if self._reader is None:
            self._reader = self._open()
        width = self._columns * self._reader.hidden
        read = self._reader.read([list(map(int, text)) for text in texts])
        return [_bf16(taps, width) for taps in read]


def _bf16(taps: bytes, width: int) -> Tensor:
    rows = np.frombuffer(taps, np.float32).reshape(-1, width)
    return torch.from_numpy(rows.copy()).bfloat16()


class EngineWriter:
    """Answers as the engine decodes them: lossless, so any drafter of the target speeds it up."""

    batch = 256

    def __init__(self, engine: Engine, max_tokens: int, ignore_eos: bool) -> None:
        self._engine, self._max_tokens, self._ignore_eos = engine, max_tokens, ignore_eos

    def write(
        self, prompts: Sequence[Sequence[int]], temperatures: Sequence[float], seed: int
    ) -> list[list[int]]:
        """As `Writer.write`."""
        answers: list[list[int]] = [[] for _ in prompts]
        for temperature in sorted({*temperatures}):
            which = [i for i, t in enumerate(temperatures) if t == temperature]
            params = SamplingParams(
                max_tokens=self._max_tokens,
                temperature=temperature,
                seed=seed,
                ignore_eos=self._ignore_eos,
            )
            outputs = self._engine.generate([list(prompts[i]) for i in which], params)
            for i, output in zip(which, outputs, strict=True):
                answers[i] = output.token_ids
        return answers


class Frozen:
    """The target's embedding and head, [vocab, hidden] each: used, never trained."""

    def __init__(self, embed: Tensor, head: Tensor) -> None:
        self.embed, self.head = embed, head


def frozen_parts(target: Path, dtype: torch.dtype, device: torch.device) -> Frozen:
    """Read embedding and head from a checkpoint directory, and nothing else of it.

    Raises
    ------
    ModelFormatError
        One of them is missing under its usual name.
    """
    tied = bool(json.loads((target / "config.json").read_text()).get("tie_word_embeddings"))
    table = "model.embed_tokens.weight"
    embed, head = (
        _tensor(target, name).to(device, dtype)
        for name in (table, table if tied else "lm_head.weight")
    )
    return Frozen(embed, head)


def _tensor(target: Path, name: str) -> Tensor:
    for file in sorted(target.glob("*.safetensors")):
        with safe_open(str(file), framework="pt") as tensors:
            if name in tensors.keys():  # noqa: SIM118 - not a mapping
                found: Tensor = tensors.get_tensor(name)
                return found
    raise ModelFormatError(f"{target}: tensor {name} is missing")


def target_sizes(target: Path) -> tuple[int, int, int]:
    """(hidden size, layers, vocabulary) of a checkpoint directory."""
    config = json.loads((target / "config.json").read_text())
    return config["hidden_size"], config["num_hidden_layers"], config["vocab_size"]
