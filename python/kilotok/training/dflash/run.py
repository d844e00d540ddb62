"""A whole run: prompts, answers, taps, training, export, evaluation, plots."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kilotok.engine import Engine
from kilotok.errors import InvalidRequestError
from kilotok.training.dflash.answers import Answers, Writer, load_answers, regenerate
from kilotok.training.dflash.evaluate import report
from kilotok.training.dflash.files import read_drafter, write_drafter
from kilotok.training.dflash.model import Weights, init_weights
from kilotok.training.dflash.plots import write_plots
from kilotok.training.dflash.prompts import Prompt, read_prompts, split_held_out, take
from kilotok.training.dflash.ranks import Ranks, join_ranks
from kilotok.training.dflash.shape import DrafterShape
from kilotok.training.dflash.taps import (
    Taps,
    build_resident,
    build_store,
    fits_beside_training,
)
from kilotok.training.dflash.teacher import (
    EngineTeacher,
    EngineWriter,
    Teacher,
    frozen_parts,
    target_sizes,
)
from kilotok.training.dflash.trainer import Plan, Trainer
from kilotok.training.record import target_digest

__all__ = ["Job", "train_drafter"]


@dataclass(frozen=True)
class Job:
    """What `kilotok train-drafter` was asked for.

    Attributes
    ----------
    target : checkpoint directory.
    data, held_out : prompt files; without `held_out`, part of `data` is kept for evaluation.
    out : run folder; the drafter is its `dflash` folder.
    shape : of a fresh drafter; None where `start` says it.
    start : drafter directory to go on from.
    temperatures : (temperature, share) of the answers.
    answer_tokens, text_tokens : longest answer, and longest text with its prompt.
    teacher : ``engine``, ``torch``, or ``auto``: the engine, but torch beside a GPU that trains.
    compare_start : also evaluate the drafter at `start`, on the same prompts.
    store_gb : taps larger than this are computed for every step instead of once.
    """

    target: Path
    data: tuple[Path, ...]
    out: Path
    plan: Plan
    shape: DrafterShape | None = None
    start: Path | None = None
    held_out: tuple[Path, ...] = ()
    temperatures: tuple[tuple[float, float], ...] = ((0.0, 1.0),)
    answer_tokens: int = 256
    answer_seconds: float | None = None
    text_tokens: int = 1024
    ignore_eos: bool = False
    teacher: str = "auto"
    store_gb: float = 8.0
    device: str = "auto"
    threads: int | None = None
    eval_prompts: int = 32
    eval_tokens: int = 128
    eval_temperatures: tuple[float, ...] = (0.0,)
    resume: bool = False
    compare_start: bool = False


def train_drafter(job: Job) -> dict[str, Any]:
    """Run a job; returns the evaluation (also `evaluation.json`), or nothing on later ranks.

    Raises
    ------
    InvalidRequestError
        An option is out of range, or the folder holds another run.
    ModelFormatError
        Target or drafter cannot be used.
    """
    ranks = join_ranks(job.device)
    try:
        return _train(job, ranks)
    finally:
        ranks.leave()


def _train(job: Job, ranks: Ranks) -> dict[str, Any]:
    job.out.mkdir(parents=True, exist_ok=True)
    if (job.out / "state.pt").exists() and not job.resume:
        raise InvalidRequestError("--out", f"{job.out} holds a run; pass --resume to go on with it")
    shape, masters = _start(job)
    frozen = frozen_parts(job.target, job.plan.dtype, ranks.device)
    teacher = _teacher(job, shape, ranks)
    held_out: list[Prompt] = []
    if ranks.is_first:
        answers, held_out = _answers(job, teacher)
        taps = _taps(job, shape, answers, teacher, ranks.device)
        ranks.wait()
    else:
        ranks.wait()
        answers = load_answers(job.out / "answers")
        taps = _taps(job, shape, answers, teacher, ranks.device)
    trainer = Trainer(shape, masters, frozen, answers, taps, job.plan, ranks, job.out)
    if job.resume and trainer.resume() and ranks.is_first:
        print(f"train: going on from step {trainer.step}", file=sys.stderr, flush=True)
    trainer.run()
    return _finish(job, shape, trainer, teacher, held_out) if ranks.is_first else {}


def _start(job: Job) -> tuple[DrafterShape, Weights]:
    hidden, layers, vocab = target_sizes(job.target)
    if job.start is not None:
        shape, masters = read_drafter(job.start, vocab, layers)
    elif job.shape is not None:
        shape, masters = job.shape, init_weights(job.shape, job.plan.seed)
    else:
        raise InvalidRequestError("shape", "neither a shape nor a drafter to start from")
    if shape.hidden != hidden:
        raise InvalidRequestError(
            "--start", f"hidden size {shape.hidden}, the target's is {hidden}"
        )
    return shape, masters


def _teacher(job: Job, shape: DrafterShape, ranks: Ranks) -> Teacher:
    kind = job.teacher
    if kind == "auto":
        # The engine computes on the CPU: beside a GPU that trains, it would be waited for.
        kind = "torch" if ranks.device.type == "cuda" else "engine"
    if kind == "engine":
        return EngineTeacher(job.target, shape.taps, job.text_tokens, job.threads)
    from kilotok.training.dflash.torch_target import TorchTarget

    compile_taps = job.plan.compile and job.plan.pad_to > 0
    return TorchTarget(job.target, shape.taps, ranks.device, job.plan.dtype, compile_taps)


def _answers(job: Job, teacher: Teacher) -> tuple[Answers, list[Prompt]]:
    longest = job.text_tokens - job.answer_tokens
    if longest < 1:
        raise InvalidRequestError("--text-tokens", f"{job.text_tokens} leaves no room for a prompt")
    with Engine(
        job.target,
        progress=False,
        threads=job.threads,
        max_positions=job.text_tokens + 1,
        max_batch=8,
    ) as engine:

        def read(paths: tuple[Path, ...], most: int) -> list[Prompt]:
            return read_prompts(paths, engine.encode, engine.encode_chat, most)

        train = read(job.data, longest)
        if job.held_out:
            held_out = take(read(job.held_out, job.text_tokens), job.eval_prompts)
        else:
            train, held_out = split_held_out(train, job.eval_prompts, job.plan.seed)
        writer: Writer
        if isinstance(teacher, EngineTeacher):
            writer = EngineWriter(engine, job.answer_tokens, job.ignore_eos)
        else:
            from kilotok.training.dflash.torch_target import TorchTarget, TorchWriter

            assert isinstance(teacher, TorchTarget)
            stop = () if job.ignore_eos else tuple(engine.info()["eos_token_ids"])
            writer = TorchWriter(teacher, job.answer_tokens, stop)
        folder, temperatures = job.out / "answers", list(job.temperatures)
        answers = regenerate(train, writer, folder, temperatures, job.plan.seed, job.answer_seconds)
        return answers, held_out


def _taps(
    job: Job, shape: DrafterShape, answers: Answers, teacher: Teacher, device: torch.device
) -> Taps:
    width = len(shape.taps) * shape.hidden
    size = len(answers.tokens) * width * 2
    if not isinstance(teacher, EngineTeacher):
        # It is on the training device, which the taps never leave: kept there, or made again.
        if fits_beside_training(size, device):
            return Taps(answers, teacher, build_resident(answers, teacher, width, device), width)
        return Taps(answers, teacher, None, width)
    if size > job.store_gb * 1e9:
        return Taps(answers, teacher, None, width)
    name = f"taps-{answers.digest()}-{'-'.join(map(str, shape.taps))}.bf16"
    return Taps(answers, teacher, build_store(answers, teacher, job.out / name, width), width)


def _finish(
    job: Job, shape: DrafterShape, trainer: Trainer, teacher: Teacher, held_out: list[Prompt]
) -> dict[str, Any]:
    record = {
        "target_sha256": target_digest(job.target),
        "steps": trainer.step,
        "texts": len(trainer.answers),
        "seconds": round(trainer.spent, 1),
    }
    drafter = job.out / "dflash"
    write_drafter(drafter, shape, trainer.optimizer.masters, record)
    longest = max(len(p.token_ids) for p in held_out) + job.eval_tokens
    if not isinstance(teacher, EngineTeacher) or longest > job.text_tokens:
        # Serving is judged by what serving computes.
        teacher = EngineTeacher(job.target, shape.taps, longest, job.threads)

    def judge(directory: Path, weights: Weights) -> dict[str, Any]:
        return report(
            job.target,
            directory,
            shape,
            weights,
            trainer.frozen,
            teacher,
            held_out,
            job.eval_tokens,
            job.eval_temperatures,
            job.threads,
        )

    evaluation = judge(drafter, {n: w.detach() for n, w in trainer.optimizer.weights.items()})
    if job.compare_start and job.start is not None:
        _, before = _start(job)
        dtype, device = job.plan.dtype, trainer.ranks.device
        evaluation["start"] = judge(job.start, {n: w.to(device, dtype) for n, w in before.items()})
    taus = {name: row["served"]["tau"] for name, row in evaluation["categories"].items()}
    write_drafter(drafter, shape, trainer.optimizer.masters, record | {"tau": taus})
    (job.out / "evaluation.json").write_text(json.dumps(evaluation, indent=1) + "\n")
    write_plots(job.out, evaluation)
    if trainer.ranks.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 1e9
        print(f"train: at most {peak:.1f} GB of GPU memory", file=sys.stderr, flush=True)
    return evaluation
