"""Drafter directories: `config.json`, one safetensors file, and the mask embedding's sidecar."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kilotok.errors import ModelFormatError
from kilotok.reference.dflash import read_mask_embedding
from kilotok.training.dflash.model import Weights
from kilotok.training.dflash.shape import DrafterShape
from kilotok.training.record import RECORD

__all__ = ["read_drafter", "write_drafter"]

_WEIGHTS = {"mimo": "dflash_draft_model.safetensors", "z-lab": "model.safetensors"}


def write_drafter(
    directory: Path, shape: DrafterShape, masters: Weights, record: dict[str, Any] | None = None
) -> None:
    """Write a drafter as BF16, atomically: a reader sees the old directory or the new one.

    Parameters
    ----------
    masters : by checkpoint name, plus ``mask_embedding`` in the ``mimo`` style.
    record : written beside it as `RECORD`.
    """
    fresh = directory.with_name(f".{directory.name}.{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    weights = {n: t.detach().cpu().bfloat16().contiguous() for n, t in sorted(masters.items())}
    mask = weights.pop("mask_embedding", None)
    save_file(weights, str(fresh / _WEIGHTS[shape.style]), metadata={"format": "pt"})
    if mask is not None:
        torch.save(mask.clone(), fresh / "mask_embedding.pt")
    _write(fresh / "config.json", shape.config())
    if record is not None:
        _write(fresh / RECORD, record)
    shutil.rmtree(directory, ignore_errors=True)
    fresh.rename(directory)


def read_drafter(directory: Path, vocab: int, target_layers: int) -> tuple[DrafterShape, Weights]:
    """Shape and float32 weights of a drafter, to go on training it.

    Raises
    ------
    ModelFormatError
        A file or tensor is missing, or a tensor is one the shape does not have.
    """
    path = directory / "config.json"
    if not path.is_file():
        raise ModelFormatError(f"{directory}: no config.json, expected a drafter directory")
    shape = DrafterShape.read(json.loads(path.read_text()), vocab, target_layers)
    weights: dict[str, Tensor] = {}
    for file in sorted(directory.glob("*.safetensors")):
        if file.stem != "mask_embedding":
            weights |= {n.removeprefix("model."): t for n, t in load_file(str(file)).items()}
    mask = read_mask_embedding(directory, shape.hidden)
    if mask is not None:
        weights["mask_embedding"] = torch.from_numpy(np.array(mask))
    from kilotok.training.dflash.model import init_weights

    expected = {n: tuple(t.shape) for n, t in init_weights(shape, 0).items()}
    found = {n: tuple(t.shape) for n, t in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ModelFormatError(
                f"{directory}: {name} has shape {found.get(name)}, expected {expected.get(name)}"
            )
    return shape, {n: weights[n].float().contiguous() for n in expected}


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
