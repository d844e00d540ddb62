"""Render the golden chat templates with Python's Jinja2.

Reads ``tests/golden/template/*.jinja`` and ``inputs.json`` beside them, renders every template
with every input in the environment that Hugging Face ``transformers`` uses for chat templates,
and writes ``expected.json``. The Rust renderer must agree byte for byte, or fail where Python
fails.

Needs ``jinja2``. Run without arguments; ``--check`` only compares with the committed file.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden" / "template"
NOW = datetime(2025, 3, 5, 16, 7, 8, tzinfo=UTC)
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


class RaisedByTemplate(Exception):
    """The template called ``raise_exception``."""


class GenerationTag(Extension):
    """``{% generation %}``: prints its body in a scope of its own."""

    tags = {"generation"}  # noqa: RUF012 (the attribute Jinja reads)

    def parse(self, parser: Parser) -> nodes.Node:
        """Turn the block into a call block that returns its body."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    @staticmethod
    def _body(caller: Any) -> str:
        return caller()


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as ``transformers`` defines the filter: not escaped for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def raise_exception(message: str) -> None:
    """Let a template reject a conversation."""
    raise RaisedByTemplate(message)


def environment() -> ImmutableSandboxedEnvironment:
    """Build the environment ``transformers`` compiles chat templates in."""
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    return env


def render(template: jinja2.Template, case: dict[str, Any]) -> dict[str, str]:
    """Render one case to ``text``, ``raised`` (by the template) or ``error``."""
    variables = SPECIAL_TOKENS | case.get("kwargs", {})
    try:
        text = template.render(
            messages=case["messages"],
            tools=case.get("tools"),
            documents=None,
            add_generation_prompt=case["add_generation_prompt"],
            **variables,
        )
    except RaisedByTemplate as raised:
        return {"raised": str(raised)}
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"text": text}


def main() -> int:
    """Write the expected outputs, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, do not write")
    arguments = parser.parse_args()
    env = environment()
    inputs = json.loads((GOLDEN / "inputs.json").read_text(encoding="utf-8"))
    expected = []
    for path in sorted(GOLDEN.glob("*.jinja")):
        template = env.from_string(path.read_text(encoding="utf-8"))
        expected += [
            {"template": path.stem, "input": case["name"]} | render(template, case)
            for case in inputs
        ]
    text = json.dumps(expected, ensure_ascii=True, indent=1) + "\n"
    target = GOLDEN / "expected.json"
    if arguments.check:
        if target.read_text(encoding="utf-8") == text:
            return 0
        sys.stderr.write(f"{target.name} is out of date; run this script without --check\n")
        return 1
    target.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
