"""Command line: `python -m training.demo.run --run-dir DIR --stage NAME [...]`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from training.demo.preset import PRESETS

STAGES = (
    "data",
    "trunk",
    "bf16",
    "qat",
    "generate",
    "drafter",
    "evaluate",
    "export",
    "pack",
    "unpack",
)


def main(argv: list[str] | None = None) -> None:
    """Run the named stages in order. Each reads what earlier ones left in the run directory."""
    parser = argparse.ArgumentParser(prog="python -m training.demo.run", description=main.__doc__)
    parser.add_argument("--run-dir", type=Path, required=True, help="where a run keeps its files")
    parser.add_argument(
        "--stage", nargs="+", choices=STAGES, default=list(STAGES[:-2]), help="default: all"
    )
    parser.add_argument("--preset", choices=PRESETS, default="full")
    parser.add_argument("--seconds", type=float, help="wall-clock budget of the stage's loop")
    parser.add_argument(
        "--steps", type=int, help="exact number of steps instead (trunk, bf16, qat, drafter)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--eager", action="store_true", help="never compile")
    parser.add_argument(
        "--out", type=Path, help="folder for pack (destination) and unpack (source)"
    )
    args = parser.parse_args(argv)
    for stage in args.stage:
        began = time.monotonic()
        _run(stage, args)
        print(f"stage {stage}: {time.monotonic() - began:.1f} s{_peak_memory()}", flush=True)


def _peak_memory() -> str:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return ""
    peak = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.empty_cache()
    return f", at most {peak:.1f} GB of GPU memory"


def _run(stage: str, args: argparse.Namespace) -> None:
    preset = PRESETS[args.preset]
    if stage in ("pack", "unpack"):
        from training.demo import bundle

        if args.out is None:
            raise SystemExit(f"stage {stage} needs --out")
        if stage == "pack":
            bundle.pack(args.run_dir, args.out)
        else:
            bundle.unpack(args.out, args.run_dir)
        return
    # Imported here so that unpacking needs neither torch nor tokenizers.
    from training.demo import data, evaluate, export, generate, train_drafter, train_target

    if stage == "data":
        data.run(preset, args.run_dir, args.seed)
    elif stage in ("trunk", "bf16", "qat"):
        train_target.run(
            preset, args.run_dir, args.seed, stage, args.seconds, args.steps, args.eager
        )
    elif stage == "generate":
        generate.run(preset, args.run_dir, args.seed, args.seconds)
    elif stage == "drafter":
        train_drafter.run(preset, args.run_dir, args.seed, args.seconds, args.steps, args.eager)
    elif stage == "evaluate":
        evaluate.run(preset, args.run_dir, args.seed)
    else:
        export.run(preset, args.run_dir)


if __name__ == "__main__":
    main()
