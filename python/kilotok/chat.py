"""Chat messages: checked before the checkpoint's template sees them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kilotok.errors import InvalidRequestError

__all__ = ["Message", "template_input"]

#: A role and a content, plus whatever else the checkpoint's template reads (tool calls, a name).
Message = Mapping[str, Any]


def template_input(
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None,
    template_args: Mapping[str, Any] | None,
) -> str:
    """JSON text of what the chat template is rendered with.

    Parameters
    ----------
    messages : sequence of mapping
        At least one, each with a `role`, and a `content` that is a string, ``None`` or a list of
        parts.
    tools : sequence of mapping, optional
        Function schemas offered to the model.
    template_args : mapping, optional
        Further variables of the template, such as ``{"enable_thinking": True}``.

    Raises
    ------
    InvalidRequestError
        Messages are missing or malformed, or a value cannot be written as JSON.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise InvalidRequestError("messages", f"expected a list, found {type(messages).__name__}")
    if not messages:
        raise InvalidRequestError("messages", "expected at least one message")
    for index, message in enumerate(messages):
        _check(index, message)
    fields: dict[str, Any] = {"messages": [dict(m) for m in messages]}
    if tools is not None:
        fields["tools"] = list(tools)
    if template_args:
        fields["template_args"] = dict(template_args)
    try:
        return json.dumps(fields, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidRequestError("messages", f"cannot be written as JSON: {error}") from None


def _check(index: int, message: object) -> None:
    name = f"messages[{index}]"
    if not isinstance(message, Mapping):
        raise InvalidRequestError(name, f"expected a mapping, found {type(message).__name__}")
    if not isinstance(message.get("role"), str):
        raise InvalidRequestError(name, "has no `role`, expected a string such as 'user'")
    content = message.get("content")
    if not (content is None or isinstance(content, str | list)):
        kind = type(content).__name__
        raise InvalidRequestError(name, f"`content` is {kind}, expected a string or a list")
