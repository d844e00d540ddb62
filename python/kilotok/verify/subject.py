"""What is checked, and on which prompts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kilotok.errors import InvalidRequestError
from kilotok.sampling import SamplingParams

__all__ = ["BUILT_IN", "Forward", "Prompt", "Subject", "read_prompts"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text, or token ids for a model without a tokenizer, and the category it counts under."""

    content: str | list[int]
    category: str = "all"


#: Short on purpose: what is checked is arithmetic and bookkeeping, not quality.
BUILT_IN = (
    Prompt("import argparse\n", "code"),
    Prompt("class Stack:\n    def __init__(self):\n", "code"),
    Prompt("def main():\n    parser = argparse.ArgumentParser()\n", "code"),
    Prompt("try:\n    import numpy as np\nexcept ", "code"),
    Prompt("The function returns ", "prose"),
    Prompt("A list of three reasons follows. First, ", "prose"),
    Prompt("12 + 30 = 42\n7 * 8 = ", "math"),
    Prompt('{"name": "get_weather", "arguments": {"city": "', "json"),
)


class Forward(Protocol):
    """Logits of a sequence: bytes of f32 ``[n, vocab]``, as `debug_forward` gives them."""

    def __call__(
        self,
        token_ids: list[int],
        *,
        device: str,
        mode: str,
        chunk: int | None = None,
        beside: list[list[int]] | None = None,
    ) -> bytes:
        """Run the target once over `token_ids`."""


@dataclass(frozen=True, slots=True)
class Subject:
    """An engine under test.

    Attributes
    ----------
    engine : Engine
        Anything with `generate`, `encode`, `has_tokenizer` and `info`.
    forward : Forward
        Logits of the same model.
    prompts : tuple of Prompt
    tokens : int
        Tokens generated per prompt.
    quick : bool
        Fewer settings of each check.
    """

    engine: Any
    forward: Forward
    prompts: tuple[Prompt, ...]
    tokens: int
    quick: bool = False

    def params(self, temperature: float, seed: int) -> SamplingParams:
        """Run to the full length, so that no comparison is cut short by an end token."""
        return SamplingParams(
            max_tokens=self.tokens, temperature=temperature, seed=seed, ignore_eos=True
        )

    def token_ids(self) -> list[list[int]]:
        """The prompts as token ids."""
        return [
            list(self.engine.encode(p.content)) if isinstance(p.content, str) else p.content
            for p in self.prompts
        ]

    def probe(self, length: int) -> list[int]:
        """Token ids of all prompts in a row, repeated to `length`."""
        joined = [token for ids in self.token_ids() for token in ids]
        return (joined * (length // len(joined) + 1))[:length]


def read_prompts(file: str | None, *, has_tokenizer: bool, vocab: int) -> tuple[Prompt, ...]:
    """Prompts of a file, or the built-in ones.

    Parameters
    ----------
    file : str or None
        One prompt per line: plain text, or an object with `prompt` (text or token ids) and maybe
        `category`.

    Raises
    ------
    InvalidRequestError
        The file cannot be read, holds no prompt, or holds text for a model without a tokenizer.
    """
    if file is None:
        if has_tokenizer:
            return BUILT_IN
        return tuple(Prompt([(7 * i + k * k) % vocab for k in range(5 + 3 * i)]) for i in range(4))
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError("--prompts", f"{file}: {error}") from None
    prompts = tuple(_line(file, i, line) for i, line in enumerate(lines, 1) if line.strip())
    if not prompts:
        raise InvalidRequestError("--prompts", f"{file} holds no prompt")
    if not has_tokenizer and any(isinstance(p.content, str) for p in prompts):
        raise InvalidRequestError("--prompts", "this model has no tokenizer, expected token ids")
    return prompts


def _line(file: str, number: int, line: str) -> Prompt:
    if not line.lstrip().startswith("{"):
        return Prompt(line)
    try:
        record = json.loads(line)
        content, category = record["prompt"], record.get("category", "all")
    except (ValueError, KeyError) as error:
        raise InvalidRequestError("--prompts", f"{file}:{number}: {error!r}") from None
    if not content or not (isinstance(content, str) or _is_ids(content)):
        raise InvalidRequestError(
            "--prompts", f"{file}:{number}: `prompt` is neither text nor token ids"
        )
    return Prompt(content, str(category))


def _is_ids(value: object) -> bool:
    return isinstance(value, Sequence) and all(type(item) is int for item in value)
