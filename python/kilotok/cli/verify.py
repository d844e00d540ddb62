"""``kilotok verify``: whether the engine keeps its promises with this model on this machine."""

import argparse
import json
import platform
import textwrap
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kilotok import __version__, _core
from kilotok.cli.arguments import add_json
from kilotok.cli.doctor import cpu_model
from kilotok.engine import Engine
from kilotok.errors import InvalidRequestError
from kilotok.loading import resolve
from kilotok.verify import Result, Subject, run_checks
from kilotok.verify.fingerprint import fingerprint
from kilotok.verify.subject import read_prompts

_EXIT_CODES = {"PASS": 0, "FAIL": 1, "INCOMPLETE": 3}


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "verify",
        help="check the engine's promises with your model on your machine",
        description="Check on this machine that speculation changes no token, that neither batches "
        "nor chunks nor the GPU's mode change a bit, that GPU and CPU agree within the stated "
        "tolerance, and that the drafter works. Prints a certificate. Exit codes: 0 everything was "
        "compared and holds, 1 something failed, 3 nothing failed but something could not be "
        "compared (no GPU, no drafter): that is NOT RUN, with the reason, and the verdict is "
        "INCOMPLETE.",
    )
    parser.add_argument(
        "model", nargs="?", metavar="DIR|ID", help="checkpoint directory or hub id (default: demo)"
    )
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        help="one prompt per line: text, or an object with `prompt` (text or token ids) and maybe "
        "`category` (default: eight built-in ones)",
    )
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--quick", action="store_true", help="fewer settings, fewer tokens")
    parser.add_argument(
        "--tokens", type=int, metavar="N", help="generated per prompt (default: 96; quick: 32)"
    )
    parser.add_argument(
        "--min-tau", type=float, metavar="X", help="fail where the drafter gives fewer tokens/round"
    )
    parser.add_argument(
        "--allow-incomplete",
        action="store_true",
        help="exit with 0 where nothing failed, whatever could not be compared",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    tokens = arguments.tokens or (32 if arguments.quick else 96)
    if arguments.tokens is not None and arguments.tokens < 1:
        raise InvalidRequestError("--tokens", f"{arguments.tokens} is not at least 1")
    directory = resolve(arguments.model)
    with Engine(directory, device=arguments.device, progress=False) as engine:
        info = engine.info()
        prompts = read_prompts(
            arguments.prompts, has_tokenizer=engine.has_tokenizer, vocab=info["vocab"]
        )

        def forward(token_ids: list[int], **options: Any) -> bytes:
            return bytes(_core.debug_forward(str(directory), token_ids, **options)["logits"])

        subject = Subject(engine, forward, prompts, tokens, quick=arguments.quick)
        results = []
        on_gpu = info["device"] == "cuda"
        for result in run_checks(
            subject, gpu=on_gpu, why_no_gpu=info["choice"], min_tau=arguments.min_tau
        ):
            results.append(result)
            if not arguments.json:
                print(_line(result), flush=True)
    certificate = _certificate(directory, info, results)
    print(json.dumps(certificate, indent=2) if arguments.json else _render(certificate))
    if certificate["verdict"] == "INCOMPLETE" and arguments.allow_incomplete:
        return 0
    return _EXIT_CODES[certificate["verdict"]]


def _verdict(results: list[Result]) -> str:
    outcomes = {result.outcome for result in results}
    if "FAIL" in outcomes:
        return "FAIL"
    return "INCOMPLETE" if "NOT RUN" in outcomes else "PASS"


def _certificate(directory: Path, info: dict[str, Any], results: list[Result]) -> dict[str, Any]:
    gpu = _core.gpu_report()
    return {
        "verdict": _verdict(results),
        "checks": [asdict(result) for result in results],
        "model": {
            "directory": str(directory),
            "family": info["family"],
            "sha256_of_headers": fingerprint(directory),
        },
        "kilotok": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "simd": info["simd"],
        "device": info["device"],
        "gpu": info["gpu"],
        "driver": gpu["text"].splitlines(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _line(result: Result) -> str:
    head = f"{result.outcome:<8} {result.check}: "
    return textwrap.fill(head + result.detail, 100, subsequent_indent=" " * 9)


def _render(certificate: dict[str, Any]) -> str:
    counts = [check["outcome"] for check in certificate["checks"]]
    model = certificate["model"]
    device = certificate["gpu"] or f"{certificate['cpu']} ({certificate['simd']})"
    return "\n".join(
        [
            "",
            f"verdict   {certificate['verdict']}: {counts.count('PASS')} passed, "
            f"{counts.count('FAIL')} failed, {counts.count('NOT RUN')} not run",
            f"model     {model['family']}, {model['directory']}",
            f"          sha256 of headers {model['sha256_of_headers']}",
            f"kilotok   {certificate['kilotok']}, Python {certificate['python']}, "
            f"{certificate['platform']}",
            f"device    {certificate['device']}: {device}",
            *(f"          {line}" for line in certificate["driver"]),
            f"time      {certificate['time']}",
        ]
    )
