"""Checkpoint -> checkpoint whose experts are MXFP4, shard by shard; needs no PyTorch.

>>> from kilotok.training.convert import convert
>>> convert("model-bf16", "model-mxfp4").total.relative_error  # doctest: +SKIP
0.113
"""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from kilotok.errors import InvalidRequestError
from kilotok.loading import resolve
from kilotok.progress import ProgressCallback, callback_for
from kilotok.training.convert.config import converted_config, make_index
from kilotok.training.convert.job import Job
from kilotok.training.convert.plan import Experts, Importance, Options, make_plan
from kilotok.training.convert.report import LayerError, Report, make_report
from kilotok.training.convert.source import INDEX, Source
from kilotok.training.quantize import Distortion, ScaleRule

__all__ = ["LayerError", "Report", "convert", "read_importance"]

#: Name of the report in the destination.
REPORT = "conversion.json"


def convert(
    source: str | os.PathLike[str] | None,
    destination: str | os.PathLike[str],
    *,
    experts: Experts = "mxfp4",
    scale: ScaleRule | None = None,
    calibrate: str | os.PathLike[str] | None = None,
    restart: bool = False,
    progress: bool | ProgressCallback = True,
) -> Report:
    """Convert the experts of a checkpoint; everything else is copied as it is.

    Reads BF16, F16, F32, FP8 (128 x 128 blocks) and MXFP4 experts, one matrix per tensor or all of
    a layer in one, gpt-oss's layouts included. Writes one matrix per tensor: U8 nibbles, low first,
    with U8 e8m0 scales (``weight``, ``weight_scale``), and ``store_dtype: mxfp4`` in `config.json`.
    Experts that are MXFP4 already keep their bits.

    Memory stays at about one stored matrix in float32. The destination appears when it is
    complete; until then the work lies in ``DESTINATION.converting``, from where the same call goes
    on after an interruption.

    Parameters
    ----------
    source : str, path or None
        A checkpoint directory, a hub id, or ``None`` for the demo checkpoint.
    destination : path
        A directory that does not exist yet.
    experts : "mxfp4" or "bf16"
        What experts become. ``"bf16"`` undoes MXFP4 exactly, as a start for training.
    scale : "max" or "mse", optional
        ``"max"`` (the default) is the OCP rule; ``"mse"`` (the default with `calibrate`) searches
        the scale with the smallest squared error of every block.
    calibrate : path, optional
        A safetensors file of the mean squares of matrix inputs, as `activation_moments` in
        `kilotok.training.calibrate` makes it: squared errors are weighted with them.
    restart : bool
        Throw away what an interrupted conversion with other options left.
    progress : bool or callable
        A bar on stderr where that is a terminal, or a function of (bytes done, bytes in all).

    Returns
    -------
    Report
        Error of every layer; also written to ``conversion.json``, beside ``SHA256SUMS``.

    Raises
    ------
    ModelFormatError
        The source is missing, damaged or not understood, or has values that are not finite.
    InvalidRequestError
        Options that contradict each other, or a model without experts.
    Error
        The destination exists, its disk is too small, or another conversion to it is running.
    """
    if experts not in ("mxfp4", "bf16"):
        raise InvalidRequestError("experts", f"{experts!r} is not 'mxfp4' or 'bf16'")
    if scale not in (None, "max", "mse"):
        raise InvalidRequestError("scale", f"{scale!r} is not 'max' or 'mse'")
    if calibrate is not None and (scale == "max" or experts != "mxfp4"):
        raise InvalidRequestError(
            "calibrate", "weights the errors that scale 'mse' of experts 'mxfp4' minimises"
        )
    importance = {} if calibrate is None else read_importance(Path(calibrate))
    rule: ScaleRule = scale or ("max" if calibrate is None else "mse")
    options = Options(experts, rule, importance)
    directory, target = resolve(source), Path(destination)
    found = Source(directory)
    shards = make_plan(found, options)
    names = [item.matrix for shard in shards for item in shard.items if item.matrix]
    weighted = sum(options.weights_of(name) is not None for name in names)
    if importance and not weighted:
        raise InvalidRequestError("calibrate", f"{calibrate} names no matrix of {directory}")
    asked: dict[str, Any] = {"experts": experts}
    if experts == "mxfp4":
        asked |= {"scale": rule, "calibrated_matrices": weighted}

    total = sum(item.read_bytes for shard in shards for item in shard.items)
    tell = callback_for(progress, f"converting {directory.name}")
    read = 0

    def advance(num_bytes: int) -> None:
        nonlocal read
        read += num_bytes
        if tell is not None:
            tell(min(read, total), total)

    with Job(target, _fingerprint(found, asked, calibrate), restart=restart) as job:
        matrices: dict[str, Distortion] = {}
        finished = {shard.name: job.done(shard) for shard in shards}
        others = [path for path in found.others() if str(path) not in ("config.json", REPORT)]
        others = [path for path in others if path.name != "SHA256SUMS"]
        to_copy = sum((directory / path).stat().st_size for path in others)
        to_write = sum(shard.num_bytes for shard in shards if finished[shard.name] is None)
        job.check_room(to_write + to_copy + (1 << 20))
        for shard in shards:
            before = finished[shard.name]
            if before is None:
                matrices |= job.write_shard(shard, advance)
            else:
                matrices |= before
                advance(sum(item.read_bytes for item in shard.items))
        for path in others:
            job.copy(directory, path)
        report = make_report(
            matrices,
            asked,
            sum(tensor.num_bytes for tensor in found.tensors.values()),
            sum(shard.num_bytes for shard in shards),
        )
        job.write_json("config.json", converted_config(found.config, experts))
        job.write_json(INDEX, make_index(found.metadata, shards, experts))
        job.write_json(REPORT, report.as_dict())
        job.finish()
    if tell is not None:
        tell(total, total)
    return report


def read_importance(path: Path) -> Importance:
    """Read what `activation_moments` wrote: float32 [cols] by matrix name.

    Raises
    ------
    InvalidRequestError
        The file cannot be read, or holds something else.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found = load_file(path)
    except (OSError, SafetensorError, KeyError) as error:
        raise InvalidRequestError("calibrate", f"{path}: {error}") from error
    for name, values in found.items():
        good = values.dtype == np.float32 and values.ndim == 1
        if not good or not np.isfinite(values).all() or (values < 0).any():
            raise InvalidRequestError(
                "calibrate", f"{path}: {name}: expected finite float32 [cols], not negative"
            )
    return found


def _fingerprint(
    source: Source, asked: dict[str, Any], calibrate: str | os.PathLike[str] | None
) -> dict[str, Any]:
    """What makes two conversions the same: options, and files by size and time of change."""
    files = []
    for file in source.files:
        stat = file.stat()
        files.append([file.name, stat.st_size, stat.st_mtime_ns])
    weights = None if calibrate is None else hashlib.sha256(Path(calibrate).read_bytes())
    return {
        "source": str(source.directory.resolve()),
        "files": files,
        "options": asked,
        "calibrate": weights and weights.hexdigest(),
    }
