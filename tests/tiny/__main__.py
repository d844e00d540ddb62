"""Command line of the tiny checkpoint writer."""

from __future__ import annotations

import argparse

from . import PRESETS, write


def main() -> None:
    """Write one tiny checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m tests.tiny", description=main.__doc__)
    parser.add_argument("out", help="directory to write")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="pro")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = write(args.out, args.preset, args.seed)
    size = sum(f.stat().st_size for f in model.path.rglob("*") if f.is_file())
    print(f"{model.path}: {args.preset}, seed {args.seed}, {size:,} bytes")


if __name__ == "__main__":
    main()
