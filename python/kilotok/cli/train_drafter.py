"""``kilotok train-drafter``: a DFlash drafter for a target, from prompts alone."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kilotok.cli.arguments import add_json
from kilotok.cli.table import table
from kilotok.errors import InvalidRequestError
from kilotok.loading import resolve

if TYPE_CHECKING:
    from kilotok.training.dflash.run import Job
    from kilotok.training.dflash.shape import DrafterShape


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "train-drafter",
        help="train a DFlash drafter",
        description="Let a target answer prompts, train a drafter on its answers, write it to "
        "RUN/dflash and report its acceptance. Needs PyTorch: pip install 'kilotok[train]'. "
        "Start it with torchrun to train on several devices.",
        epilog="example: kilotok train-drafter ./model --data prompts.jsonl --out ./run "
        "--mask-token-id 9 --steps 2000",
    )
    parser.add_argument("target", metavar="TARGET", help="checkpoint directory, hub id, or 'demo'")
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="FILE")
    parser.add_argument("--held-out", type=Path, nargs="+", default=[], metavar="FILE")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="run folder")
    parser.add_argument("--resume", action="store_true", help="go on with the run in RUN")
    _add_shape(parser)
    _add_answers(parser)
    _add_training(parser)
    _add_evaluation(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def _add_shape(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("drafter (defaults: the target's own drafter's sizes)")
    group.add_argument("--start", metavar="DIR|auto", help="go on from this drafter's weights")
    group.add_argument("--style", choices=("mimo", "z-lab"), help="files and layers as in")
    group.add_argument("--layers", type=int, metavar="N")
    group.add_argument("--heads", type=int, metavar="N")
    group.add_argument("--kv-heads", type=int, metavar="N")
    group.add_argument("--head-dim", type=int, metavar="N")
    group.add_argument("--inter", type=int, metavar="N", help="feed-forward width")
    group.add_argument("--block", type=int, metavar="N", help="rows, the anchor included")
    group.add_argument("--window", type=int, metavar="N", help="keys seen; 0 sees all")
    group.add_argument("--taps", metavar="IDS|N", help="0-based layers 1,9,17, or how many")
    group.add_argument("--theta", type=float, metavar="X", help="rotary base")
    group.add_argument("--mask-token-id", type=int, metavar="ID")


def _add_answers(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("answers of the target")
    group.add_argument("--temperatures", default="0:0.5,0.7:0.25,1:0.25", metavar="T:SHARE,...")
    group.add_argument("--answer-tokens", type=int, default=256, metavar="N")
    group.add_argument("--answer-minutes", type=float, metavar="M", help="stop answering after")
    group.add_argument("--text-tokens", type=int, default=1024, metavar="N", help="with prompt")
    group.add_argument("--ignore-eos", action="store_true", help="fill every answer")
    group.add_argument("--teacher", choices=("auto", "engine", "torch"), default="auto")
    group.add_argument("--store-gb", type=float, default=8.0, metavar="X", help="taps kept on disk")


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument("--steps", type=int, default=2000, metavar="N")
    group.add_argument("--minutes", type=float, metavar="M", help="in place of --steps")
    group.add_argument("--batch", type=int, default=32, metavar="N", help="texts per step, in all")
    group.add_argument("--accumulate", type=int, default=1, metavar="N", help="parts of a step")
    group.add_argument("--anchors", type=int, default=128, metavar="N", help="blocks per text")
    group.add_argument("--chunk", type=int, default=0, metavar="N", help="blocks at once; 0: all")
    group.add_argument("--pad-to", type=int, default=0, metavar="N")
    group.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    group.add_argument("--lr", type=float, metavar="X", help="of AdamW (default 1e-3, alone 6e-4)")
    group.add_argument("--muon-lr", type=float, default=0.01, metavar="X")
    group.add_argument("--weight-decay", type=float, default=0.1, metavar="X")
    group.add_argument("--warmup", type=float, default=0.04, metavar="SHARE")
    group.add_argument("--weighting", choices=("decay", "dpace"), default="dpace")
    group.add_argument("--gamma", type=float, metavar="X", help="of decay (default: by block)")
    group.add_argument("--alpha", type=float, default=0.5, metavar="X", help="of dpace")
    group.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    group.add_argument("--compile", action="store_true", help="torch.compile the step")
    group.add_argument("--checkpoint-every", type=int, default=500, metavar="N")
    group.add_argument("--log-every", type=int, default=20, metavar="N")
    group.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda or cuda:N")
    group.add_argument("--threads", type=int, metavar="N", help="of the engine")
    group.add_argument("--seed", type=int, default=1, metavar="N")


def _add_evaluation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("evaluation")
    group.add_argument("--eval-prompts", type=int, default=32, metavar="N", help="per category")
    group.add_argument("--eval-tokens", type=int, default=128, metavar="N")
    group.add_argument(
        "--compare-start", action="store_true", help="evaluate the drafter of --start as well"
    )
    group.add_argument("--eval-temperature", type=float, nargs="*", default=[], metavar="T")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    try:
        from kilotok.training.dflash.run import train_drafter
    except ModuleNotFoundError as error:
        raise InvalidRequestError(
            "train-drafter", f"needs {error.name}: pip install 'kilotok[train]'"
        ) from None
    evaluation = train_drafter(_job(arguments))
    if not evaluation:
        return 0
    if arguments.json:
        print(json.dumps(evaluation))
        return 0
    rows = [
        (
            name,
            row["served"]["rounds"],
            f"{row['served']['tau']:.3f}",
            f"{row['served']['tau_per_request']:.3f}",
            f"{row['teacher_forced']['tau']:.3f}",
            f"{row['difference_percent']:+.2f} %",
        )
        for name, row in [*evaluation["categories"].items(), ("all", evaluation["all"])]
    ]
    header = ("category", "rounds", "tau served", "per request", "teacher-forced", "difference")
    print(table(header, rows))
    print(f"\ndrafter: {arguments.out / 'dflash'}")
    return 0


def _job(arguments: argparse.Namespace) -> "Job":
    import torch

    from kilotok.training.dflash.answers import parse_temperatures
    from kilotok.training.dflash.loss import Weighting, default_gamma
    from kilotok.training.dflash.optimizer import Rates
    from kilotok.training.dflash.run import Job
    from kilotok.training.dflash.trainer import Plan

    a = arguments
    target = resolve(None if a.target == "demo" else a.target)
    start = target / "dflash" if a.start == "auto" else a.start and Path(a.start)
    shape = None if start else _shape(a, target)
    block = a.block or (shape.block if shape else 8)
    positive = ("steps", "batch", "accumulate", "anchors", "answer_tokens", "log_every")
    for name in positive:
        if getattr(a, name) < 1:
            raise InvalidRequestError(f"--{name.replace('_', '-')}", "expected at least 1")
    adam = a.lr or (1e-3 if a.optimizer == "muon" else 6e-4)
    plan = Plan(
        steps=a.steps,
        minutes=a.minutes,
        batch=a.batch,
        accumulate=a.accumulate,
        anchors=a.anchors,
        chunk=a.chunk,
        pad_to=a.pad_to,
        optimizer=a.optimizer,
        rates=Rates(a.muon_lr, adam, a.weight_decay),
        warmup=a.warmup,
        weighting=Weighting(a.weighting, a.gamma or default_gamma(block), a.alpha),
        seed=a.seed,
        dtype=getattr(torch, a.dtype),
        checkpoint_every=a.checkpoint_every,
        log_every=a.log_every,
        compile=a.compile,
    )
    return Job(
        target=target,
        data=tuple(a.data),
        out=a.out,
        plan=plan,
        shape=shape,
        start=start,
        held_out=tuple(a.held_out),
        temperatures=tuple(parse_temperatures(a.temperatures)),
        answer_tokens=a.answer_tokens,
        answer_seconds=None if a.answer_minutes is None else 60 * a.answer_minutes,
        text_tokens=a.text_tokens,
        ignore_eos=a.ignore_eos,
        teacher=a.teacher,
        store_gb=a.store_gb,
        device=a.device,
        threads=a.threads,
        eval_prompts=a.eval_prompts,
        eval_tokens=a.eval_tokens,
        eval_temperatures=tuple(a.eval_temperature),
        resume=a.resume,
        compare_start=a.compare_start,
    )


def _shape(a: argparse.Namespace, target: Path) -> "DrafterShape":
    from kilotok.training.dflash.fresh import fresh_shape

    taps: tuple[int, ...] | int | None = None
    if a.taps is not None:
        try:
            numbers = tuple(int(word) for word in a.taps.split(","))
        except ValueError:
            raise InvalidRequestError("--taps", f"{a.taps!r}: expected numbers") from None
        taps = numbers if len(numbers) > 1 else numbers[0]
    return fresh_shape(
        target,
        style=a.style,
        taps=taps,
        layers=a.layers,
        heads=a.heads,
        kv_heads=a.kv_heads,
        head_dim=a.head_dim,
        inter=a.inter,
        block=a.block,
        window=a.window,
        theta=a.theta,
        mask_token_id=a.mask_token_id,
    )
