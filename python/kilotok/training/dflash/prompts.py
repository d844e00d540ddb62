"""Prompts from files: what the target is asked to continue."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kilotok.errors import InvalidRequestError

__all__ = ["Prompt", "read_prompts", "split_held_out", "take"]


@dataclass(frozen=True)
class Prompt:
    """Token ids of one prompt, and the category that reports group it by."""

    token_ids: tuple[int, ...]
    category: str


def read_prompts(
    paths: Sequence[Path],
    encode: Callable[[str], list[int]],
    render: Callable[[list[dict[str, Any]], Any], list[int]],
    max_tokens: int,
) -> list[Prompt]:
    """Read ``.jsonl`` and ``.txt`` files.

    A JSON line has one of ``prompt`` (text), ``messages`` (a conversation for the chat template,
    maybe with ``tools``) or ``token_ids``, and optionally ``category``; without one, the file's
    name is the category. A text file holds one prompt per line.

    Parameters
    ----------
    encode : text -> token ids.
    render : (messages, tools) -> token ids.
    max_tokens : longer prompts keep their last so many tokens.

    Raises
    ------
    InvalidRequestError
        A file or line cannot be read; names both.
    """
    prompts = []
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequestError("--data", f"{path}: {error}") from None
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            place = f"{path}, line {number}"
            item = _object(place, line) if path.suffix == ".jsonl" else {"prompt": line}
            tokens = _tokens(place, item, encode, render)
            category = str(item.get("category", path.stem))
            prompts.append(Prompt(tuple(tokens[-max_tokens:]), category))
    if not prompts:
        raise InvalidRequestError("--data", f"no prompts in {', '.join(map(str, paths))}")
    return prompts


def split_held_out(
    prompts: list[Prompt], per_category: int, seed: int
) -> tuple[list[Prompt], list[Prompt]]:
    """Take up to `per_category` prompts (a tenth at most) of each category for evaluation.

    A prompt that occurs more than once stays out of the held-out part.
    """
    counts: dict[tuple[int, ...], int] = {}
    groups: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        counts[prompt.token_ids] = counts.get(prompt.token_ids, 0) + 1
        groups.setdefault(prompt.category, []).append(index)
    held: set[int] = set()
    for category, members in sorted(groups.items()):
        single = [i for i in members if counts[prompts[i].token_ids] == 1]
        take = min(per_category, max(len(members) // 10, 1), len(single))
        held.update(random.Random(f"{seed}-{category}").sample(single, take))
    train = [p for i, p in enumerate(prompts) if i not in held]
    return train, [prompts[i] for i in sorted(held)]


def take(prompts: list[Prompt], per_category: int) -> list[Prompt]:
    """The first `per_category` prompts of each category."""
    counts: dict[str, int] = {}
    kept = []
    for prompt in prompts:
        counts[prompt.category] = counts.get(prompt.category, 0) + 1
        if counts[prompt.category] <= per_category:
            kept.append(prompt)
    return kept


def _object(place: str, line: str) -> dict[str, Any]:
    try:
        item = json.loads(line)
    except json.JSONDecodeError as error:
        raise InvalidRequestError("--data", f"{place}: {error}") from None
    if not isinstance(item, dict):
        raise InvalidRequestError("--data", f"{place}: expected a JSON object")
    return item


def _tokens(
    place: str,
    item: dict[str, Any],
    encode: Callable[[str], list[int]],
    render: Callable[[list[dict[str, Any]], Any], list[int]],
) -> list[int]:
    given = [key for key in ("prompt", "messages", "token_ids") if key in item]
    if len(given) != 1:
        raise InvalidRequestError(
            "--data", f"{place}: expected one of prompt, messages and token_ids, found {given}"
        )
    if given == ["token_ids"]:
        tokens = item["token_ids"]
        if not isinstance(tokens, list) or not all(type(t) is int and t >= 0 for t in tokens):
            raise InvalidRequestError("--data", f"{place}: token_ids: expected token ids")
    elif given == ["prompt"]:
        tokens = encode(str(item["prompt"]))
    else:
        tokens = render(item["messages"], item.get("tools"))
    if not tokens:
        raise InvalidRequestError("--data", f"{place}: the prompt is empty")
    return list(tokens)
