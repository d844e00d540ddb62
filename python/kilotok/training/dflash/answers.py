"""The target's own answers to the prompts: what a drafter learns to predict."""

from __future__ import annotations

import hashlib
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from kilotok.errors import InvalidRequestError
from kilotok.training.dflash.prompts import Prompt

__all__ = ["Answers", "Writer", "load_answers", "parse_temperatures", "regenerate"]


class Writer(Protocol):
    """Whoever continues prompts: the engine, or torch on a GPU.

    Attributes
    ----------
    batch : prompts that it likes to be given at once.
    """

    batch: int

    def write(
        self, prompts: Sequence[Sequence[int]], temperatures: Sequence[float], seed: int
    ) -> list[list[int]]:
        """Continuations, without the prompts; temperature 0 is greedy."""


@dataclass(frozen=True)
class Answers:
    """Prompts with answers, as flat arrays.

    Attributes
    ----------
    tokens : uint32, all texts one after the other.
    offsets : int64 [texts + 1] into `tokens`.
    prompt : int64 [texts], tokens of each text that are its prompt.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    prompt: np.ndarray

    def __len__(self) -> int:
        return len(self.prompt)

    def text(self, index: int) -> np.ndarray:
        """Token ids of one text, prompt first."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    def lengths(self) -> np.ndarray:
        """int64 [texts]."""
        return np.diff(self.offsets)

    def digest(self) -> str:
        """What a tap cache of these texts is called."""
        return hashlib.sha256(self.tokens.tobytes() + self.offsets.tobytes()).hexdigest()[:16]


def parse_temperatures(text: str) -> list[tuple[float, float]]:
    """``"0:0.5,0.7:0.25,1:0.25"`` -> (temperature, share) pairs whose shares sum to 1."""
    try:
        pairs = [(float(t), float(s)) for t, s in (item.split(":") for item in text.split(","))]
    except ValueError:
        raise InvalidRequestError("--temperatures", f"{text!r}: expected T:SHARE,...") from None
    total = sum(share for _, share in pairs)
    if total <= 0 or any(t < 0 or s < 0 for t, s in pairs):
        raise InvalidRequestError("--temperatures", f"{text!r}: expected numbers of at least 0")
    return [(t, s / total) for t, s in pairs]


def regenerate(
    prompts: Sequence[Prompt],
    writer: Writer,
    folder: Path,
    temperatures: list[tuple[float, float]],
    seed: int,
    seconds: float | None = None,
) -> Answers:
    """Answer every prompt, in parts that survive an interruption.

    Parts are files of `folder`; those already there for the same prompts are kept. With a budget
    of `seconds` no part is begun after it, and the first is always made; answers that ended so are
    complete, and a later call adds none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    order = list(range(len(prompts)))
    random.Random(f"{seed}-order").shuffle(order)
    key = hashlib.sha256(json.dumps([seed, temperatures, len(prompts)]).encode())
    for prompt in prompts:
        key.update(np.asarray(prompt.token_ids, np.uint32).tobytes())
    marker = folder / "prompts.sha256"
    if marker.exists() and marker.read_text() != key.hexdigest():
        raise InvalidRequestError(
            "--out", f"{folder} holds answers to other prompts or temperatures; choose another"
        )
    marker.write_text(key.hexdigest())
    complete = folder / "complete"
    if complete.exists():
        return load_answers(folder)
    parts: list[Path] = []
    began, made = time.monotonic(), 0
    size = writer.batch
    for start in range(0, len(order), size):
        path = folder / f"part-{start // size:05d}.npz"
        if not path.exists():
            if parts and seconds is not None and time.monotonic() - began > seconds:
                break
            chosen = [prompts[i] for i in order[start : start + size]]
            made += _write_part(path, chosen, writer, temperatures, seed + start)
            _report(min(start + size, len(order)), len(order), made, time.monotonic() - began)
        parts.append(path)
    complete.touch()
    return _join(parts)


def load_answers(folder: Path) -> Answers:
    """Answers that another rank wrote."""
    return _join(sorted(folder.glob("part-*[0-9].npz")))


def _write_part(
    path: Path,
    prompts: Sequence[Prompt],
    writer: Writer,
    temperatures: list[tuple[float, float]],
    seed: int,
) -> int:
    edges = np.round(np.cumsum([share for _, share in temperatures]) * len(prompts)).astype(int)
    which = np.searchsorted(edges, np.arange(len(prompts)), side="right").clip(
        max=len(temperatures) - 1
    )
    chosen = [temperatures[i][0] for i in which]
    answers = writer.write([p.token_ids for p in prompts], chosen, seed)
    texts = [[*p.token_ids, *a] for p, a in zip(prompts, answers, strict=True)]
    kept = [i for i, answer in enumerate(answers) if len(answer) >= 2]
    temporary = path.with_suffix(".tmp.npz")
    np.savez(
        temporary,
        tokens=np.array([t for i in kept for t in texts[i]], np.uint32),
        lengths=np.array([len(texts[i]) for i in kept], np.int64),
        prompt=np.array([len(prompts[i].token_ids) for i in kept], np.int64),
    )
    temporary.rename(path)
    return sum(map(len, answers))


def _join(parts: Sequence[Path]) -> Answers:
    loaded = [np.load(path) for path in parts]
    lengths = np.concatenate([part["lengths"] for part in loaded])
    if not len(lengths):
        raise InvalidRequestError("--data", "the target ended every answer at once")
    return Answers(
        np.concatenate([part["tokens"] for part in loaded]),
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate([part["prompt"] for part in loaded]),
    )


def _report(done: int, total: int, tokens: int, seconds: float) -> None:
    rate = tokens / max(seconds, 1e-9)
    print(f"answers: {done} of {total} prompts, {rate:.0f} tokens/s", file=sys.stderr, flush=True)
