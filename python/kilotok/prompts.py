"""What a user may pass as a prompt, told apart."""

import operator
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from kilotok.errors import InvalidRequestError

__all__ = ["Prompt", "Prompts", "as_prompts", "utf8"]

#: Text, or the token ids of one.
Prompt: TypeAlias = str | Sequence[int]

#: One prompt or several.
Prompts: TypeAlias = Prompt | Sequence[str] | Sequence[Sequence[int]]


def as_prompts(prompt: Any) -> tuple[list[str | list[int]], bool]:
    """Split into single prompts; the flag says whether one prompt was given, not a list of them.

    Raises
    ------
    InvalidRequestError
        The prompt is empty or none of text, token ids, or a list of either.
    """
    if isinstance(prompt, str):
        return [utf8("prompt", prompt)], True
    items = _items(prompt, "prompt")
    if not items:
        raise InvalidRequestError("prompt", "is empty, expected at least one token")
    if all(_is_id(item) for item in items):
        return [_ids(items, "prompt")], True
    return [
        utf8(f"prompt[{i}]", item)
        if isinstance(item, str)
        else _ids(_items(item, f"prompt[{i}]"), f"prompt[{i}]")
        for i, item in enumerate(items)
    ], False


def utf8(parameter: str, text: object) -> str:
    """The text, if it is one that can be encoded: lone surrogates are not."""
    if not isinstance(text, str):
        raise InvalidRequestError(parameter, f"{text!r} is not a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(parameter, str(error)) from None
    return text


def _items(value: Any, name: str) -> list[Any]:
    if isinstance(value, bytes | bytearray | dict) or not isinstance(value, Iterable):
        raise InvalidRequestError(
            name, f"expected text, token ids or a list of them, found {type(value).__name__}"
        )
    return list(value)


def _ids(items: list[Any], name: str) -> list[int]:
    ids = []
    for item in items:
        if not _is_id(item):
            raise InvalidRequestError(name, f"{item!r} is not a token id")
        ids.append(operator.index(item))
    for token in ids:
        if not 0 <= token < 1 << 32:
            raise InvalidRequestError(name, f"token id {token} is out of range")
    return ids


def _is_id(item: Any) -> bool:
    return hasattr(item, "__index__") and not isinstance(item, bool)
