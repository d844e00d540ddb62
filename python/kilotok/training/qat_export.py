"""Trained experts -> MXFP4: for a running engine, or as a checkpoint."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kilotok.errors import InvalidRequestError
from kilotok.training.convert import Report, convert
from kilotok.training.convert.source import Source
from kilotok.training.qat import ExpertWeight, expert_weights
from kilotok.training.quantize import quantize_mxfp4

__all__ = ["export_experts", "save_checkpoint"]

#: Files that describe the weights beside them.
_OWN = {"config.json", "conversion.json", "SHA256SUMS", "README.md", "MODEL_CARD.md"}


def export_experts(model: nn.Module) -> dict[str, Tensor]:
    """The routed experts as MXFP4 tensors, named and laid out as in a checkpoint.

    ``Engine.update_weights`` takes them as they are. They decode to exactly the values that the
    last forward pass of a model from `prepare_qat` multiplied by, had the optimiser not moved the
    parameters since; under mixed precision that includes the rounding to its dtype.

    Parameters
    ----------
    model : nn.Module
        Prepared or not, compiled or not. Sharded parameters are gathered one at a time: every
        rank has to call.

    Returns
    -------
    dict of str to uint8 tensor
        ``PREFIX.experts.E.gate_proj.weight`` [rows, cols / 2] and ``.weight_scale``
        [rows, cols / 32], and so on; empty on ranks other than 0 of sharded models.
    """
    out: dict[str, Tensor] = {}
    for weight in _weights(model):
        whole = _whole(weight.parameter)
        if whole is None:
            continue
        for name, matrix in weight.matrices(whole.to(weight.rounded_from)):
            nibbles, scales, _ = quantize_mxfp4(matrix.float().numpy())
            out[f"{name}.weight"] = torch.from_numpy(nibbles.copy())
            out[f"{name}.weight_scale"] = torch.from_numpy(scales.copy())
    return out


def save_checkpoint(
    model: Any,
    directory: str | os.PathLike[str],
    *,
    like: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Report | None:
    """Write a complete checkpoint with experts in MXFP4.

    `model.save_pretrained` writes names, configuration and all other weights into a temporary
    directory beside the destination; `convert` then rounds the experts, from the dtype that
    training rounds from and with the same scales.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Prepared or not. Sharded parameters are gathered: every rank has to call, rank 0 writes.
    directory : path
        A directory that does not exist yet.
    like : path, optional
        A checkpoint directory whose other files go with the new weights: tokenizer, generation
        settings, drafter.
    progress : bool
        Whether to draw a bar.

    Returns
    -------
    Report or None
        Error of every layer; None on ranks other than 0.

    Raises
    ------
    Error
        The directory exists, or its disk is too small.
    """
    model = getattr(model, "_orig_mod", model)
    if not hasattr(model, "save_pretrained"):
        raise InvalidRequestError("model", "expected a model of transformers, with save_pretrained")
    rounded_from = {weight.name: weight.rounded_from for weight in expert_weights(model)}
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        whole = _whole(value)
        if whole is not None:
            state[name] = whole.to(rounded_from.get(name, whole.dtype))
    if not state:
        return None
    target = Path(directory)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as plain:
        model.save_pretrained(plain, state_dict=state)
        if like is not None:
            for inside in Source(Path(like)).others():
                if str(inside) not in _OWN:
                    (Path(plain) / inside).parent.mkdir(exist_ok=True, parents=True)
                    shutil.copyfile(Path(like) / inside, Path(plain) / inside)
        return convert(plain, target, progress=progress)


def _weights(model: nn.Module) -> Iterator[ExpertWeight]:
    found = expert_weights(getattr(model, "_orig_mod", model))
    if not found:
        raise InvalidRequestError("model", f"{type(model).__name__} has no routed experts")
    yield from found


def _whole(value: Tensor) -> Tensor | None:
    """The whole of a tensor on the CPU; None on ranks that need not have it."""
    value = value.detach()
    if hasattr(value, "full_tensor"):
        whole: Tensor = value.full_tensor()
        return whole.cpu() if torch.distributed.get_rank() == 0 else None
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return value.cpu() if torch.distributed.get_rank() == 0 else None
    return value.cpu()
