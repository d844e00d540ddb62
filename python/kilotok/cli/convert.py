"""``kilotok convert``: a checkpoint with experts in MXFP4 (or back in BF16)."""

import argparse
import json
import sys
from typing import Any

from kilotok.cli.arguments import add_json
from kilotok.cli.table import binary_size, table
from kilotok.training.convert import LayerError, Report, convert

__all__ = ["add_parser", "run"]


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "convert",
        help="round the experts of a checkpoint to MXFP4",
        description="Write a checkpoint whose experts are MXFP4, in the layout of MiMo's FP4 "
        "releases; everything else is copied. BF16, FP8 and gpt-oss layouts go in. Memory stays "
        "at about one matrix. After an interruption the same command goes on where it was.",
    )
    parser.add_argument("source", metavar="SRC", help="checkpoint directory, hub id, or 'demo'")
    parser.add_argument("destination", metavar="DST", help="directory that does not exist yet")
    parser.add_argument(
        "--experts",
        choices=("mxfp4", "bf16"),
        default="mxfp4",
        help="what experts become; bf16 undoes mxfp4 exactly (default: mxfp4)",
    )
    parser.add_argument(
        "--scale",
        choices=("max", "mse"),
        help="max: the OCP rule (default); mse: the smallest squared error (default with "
        "--calibrate)",
    )
    parser.add_argument(
        "--calibrate",
        metavar="FILE",
        help="safetensors file of input moments that weigh the errors (docs/qat.md)",
    )
    parser.add_argument(
        "--restart",
        action="store_true",
        help="throw away what an interrupted conversion with other options left",
    )
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    report = convert(
        None if arguments.source == "demo" else arguments.source,
        arguments.destination,
        experts=arguments.experts,
        scale=arguments.scale,
        calibrate=arguments.calibrate,
        restart=arguments.restart,
        progress=not arguments.no_progress,
    )
    if arguments.json:
        print(json.dumps(report.as_dict()))
    else:
        print(_text(report))
        print(f"kilotok: wrote {arguments.destination}", file=sys.stderr)
    return 0


def _text(report: Report) -> str:
    header = ["layer", "matrix", "count", "relative error", "SNR", "largest error", "saturated"]
    rows = [_row(error) for error in [*report.layers, report.total]]
    sizes = f"{binary_size(report.source_bytes)} -> {binary_size(report.written_bytes)}"
    return f"{table(header, rows, numbers_from=2)}\nweights: {sizes}"


def _row(error: LayerError) -> list[str]:
    return [
        error.layer,
        error.part,
        str(error.matrices),
        f"{error.relative_error:.5f}",
        "exact" if error.snr_db is None else f"{error.snr_db:.2f} dB",
        f"{error.largest_error:.3g}",
        f"{error.saturated:.3%}",
    ]
