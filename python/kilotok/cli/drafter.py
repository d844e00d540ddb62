"""``kilotok drafter check``: why a drafter is accepted less than it should be."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kilotok.cli.arguments import add_json
from kilotok.cli.table import table
from kilotok.errors import InvalidRequestError
from kilotok.loading import resolve

if TYPE_CHECKING:
    from kilotok.training.doctor.check import Report

#: Three kinds of text that most drafters are asked for.
_PROMPTS = (
    ("code", "import argparse\nimport json\n\n\ndef read_lines(path):\n    "),
    (
        "code",
        "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(",
    ),
    ("code", "def fibonacci(n):\n    if n < 2:\n        return n\n    "),
    ("prose", "The standard library contains several modules for working with files. The first "),
    ("prose", "This function returns the number of items in the list. If the list is empty, "),
    ("json", '{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}\n{"name": "'),
)


def add_parser(commands: Any) -> None:
    """Register the command."""
    group: argparse.ArgumentParser = commands.add_parser(
        "drafter", help="examine a drafter", description="Examine a DFlash drafter."
    )
    actions = group.add_subparsers(title="actions", required=True, metavar="ACTION")
    parser = actions.add_parser(
        "check",
        help="find out why acceptance is low",
        description="Read the drafter in every way that somebody got wrong before and name the one "
        "that is accepted more; compare the engine's drafts, or those in a log of another engine, "
        "with what the files say; report acceptance by category. Exits with 1 if not all is well.",
        epilog="example: kilotok drafter check ./model --prompts mine.jsonl",
    )
    parser.add_argument("target", nargs="?", metavar="TARGET", help="(default: demo)")
    parser.add_argument("drafter", nargs="?", metavar="DRAFTER", help="(default: TARGET/dflash)")
    parser.add_argument("--prompts", type=Path, nargs="+", metavar="FILE", help="your own prompts")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="of every answer")
    parser.add_argument("--blocks", type=int, default=96, metavar="N", help="to judge by")
    parser.add_argument("--max-prompt", type=int, default=512, metavar="N", help="tokens kept")
    parser.add_argument("--served", type=Path, metavar="LOG", help="drafts of another engine")
    parser.add_argument("--threads", type=int, metavar="N")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from kilotok.training.doctor.check import check, read_log

    target = resolve(None if arguments.target == "demo" else arguments.target)
    drafter = Path(arguments.drafter) if arguments.drafter else target / "dflash"
    if not (drafter / "config.json").is_file():
        raise InvalidRequestError("drafter", f"{drafter}: no config.json")
    report = check(
        target,
        drafter,
        _prompts(arguments, target),
        tokens=arguments.tokens,
        blocks=arguments.blocks,
        log=None if arguments.served is None else read_log(arguments.served),
        threads=arguments.threads,
    )
    print(json.dumps(report.to_dict()) if arguments.json else _text(report))
    return 1 if report.faults else 0


def _prompts(arguments: argparse.Namespace, target: Path) -> list[tuple[list[int], str]]:
    from kilotok.engine import Engine
    from kilotok.training.dflash.prompts import read_prompts

    # Without the drafter: a broken one must not keep the prompts from being read.
    with Engine(target, drafter=None, progress=False, threads=arguments.threads) as engine:
        if arguments.prompts:
            prompts = read_prompts(
                arguments.prompts, engine.encode, engine.encode_chat, arguments.max_prompt
            )
            return [(list(p.token_ids), p.category) for p in prompts]
        if not engine.has_tokenizer:
            raise InvalidRequestError("--prompts", "needed: the target has no tokenizer")
        return [(engine.encode(text), category) for category, text in _PROMPTS]


def _text(report: "Report") -> str:
    lines = []
    if report.categories:
        rows = [
            (
                name,
                row["requests"],
                row["rounds"],
                "-" if row["tau"] is None else f"{row['tau']:.2f}",
                "-" if row["trained_tau"] is None else f"{row['trained_tau']:.2f}",
            )
            for name, row in report.categories.items()
        ]
        lines += [table(("category", "requests", "rounds", "tau", "in training"), rows), ""]
    if report.agreement is not None:
        lines.append(f"drafts that are what the files say: {report.agreement:.1%}")
    if report.tau is not None and report.best_tau is not None:
        lines.append(f"tau as the files say {report.tau:.2f}, best reading {report.best_tau:.2f}")
    for finding in report.findings:
        kind = "FAULT" if finding.is_fault else "note"
        gain = "" if finding.tau is None else f" (tau {finding.tau[0]:.2f} -> {finding.tau[1]:.2f})"
        lines.append(f"{kind} {finding.name}: {finding.message}{gain}")
    if not report.findings:
        lines.append("nothing is wrong with this drafter")
    return "\n".join(lines)
