"""Teaching a tiny drafter a few continuations, so that rounds accept more than nothing.

A random drafter agrees with its target about once in a vocabulary. Solving the last down projection
by least squares on given continuations gives acceptance lengths spread over 0..block without any
training.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ._reference import reference
from .weights import Stored, encode


def teach(
    path: Path,
    tensors: dict[str, Stored],
    prompts: Sequence[Sequence[int]],
    tokens: int,
    slots: int,
) -> dict[str, Stored]:
    """Drafter tensors with the last down projection refitted.

    Parameters
    ----------
    path : model directory as `write` left it.
    tensors : its drafter tensors.
    prompts, tokens : the greedy continuations of ``tokens`` tokens to learn.
    slots : how many of the block's mask slots to fit.
    """
    target = reference.open_target(path)
    drafter = reference.Drafter(path / "dflash", target)
    last = drafter.layers[-1]
    last["down"] = np.zeros_like(last["down"])
    features, wanted = [], []
    for prompt in prompts:
        text = [*prompt, *target.generate(prompt, tokens)]
        taps = target.forward(text).taps(drafter.config.target_layer_ids)
        for start in range(len(prompt), len(text) - slots):
            context = drafter.extend(drafter.empty(), taps[:start])
            x = drafter.hidden(context, text[start], slots + 1)[1:]
            z = reference.ops.rms_norm(x, last["ffn_norm"], drafter.config.eps)
            features.append(reference.ops.dense_up(z, last["gate"], last["up"]))
            rows = target.head[text[start + 1 : start + 1 + slots]] * drafter.norm
            wanted.append(rows * (20 / np.linalg.norm(rows, axis=1, keepdims=True)) - x)
    a, b = np.concatenate(features), np.concatenate(wanted)
    ridge = 1e-3 * np.trace(a.T @ a) / a.shape[1] * np.eye(a.shape[1])
    down = np.linalg.solve(a.T @ a + ridge, a.T @ b).T
    name = f"layers.{drafter.config.layers - 1}.mlp.down_proj.weight"
    return {**tensors, **encode(name, down.astype(np.float32), "BF16")}
