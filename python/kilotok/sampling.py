"""Sampling parameters of one request."""

import json
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kilotok.errors import InvalidRequestError
from kilotok.prompts import utf8

__all__ = ["SamplingParams"]

# What the extension module can hold; narrower ranges depend on the model and are checked there.
_INTEGERS = {
    "max_tokens": (1, (1 << 32) - 1),
    "top_k": (0, (1 << 32) - 1),
    "seed": (0, (1 << 64) - 1),
    "logprobs": (0, (1 << 32) - 1),
    "n": (1, 256),
    "thinking_budget": (0, (1 << 32) - 1),
}
_OPTIONAL = ("max_tokens", "seed", "logprobs", "thinking_budget")
_NUMBERS = (
    "temperature",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """How tokens are chosen and when a text ends.

    The defaults are greedy decoding of at most 128 tokens. Noise is keyed by (seed, position), so a
    seeded request gives the same tokens whatever runs beside it and whether or not tokens are
    speculated. Ranges are checked when a request is submitted, against the model it goes to.

    Attributes
    ----------
    max_tokens : int or None
        Largest number of generated tokens. ``None``: as many as the context has room for.
    temperature : float
        0 is greedy; otherwise logits are divided by it. At most 100.
    top_k : int
        Keep the `top_k` most likely tokens; 0 keeps all.
    top_p : float
        Keep the smallest set of tokens whose probability reaches `top_p`, in (0, 1].
    min_p : float
        Keep tokens at least `min_p` times as likely as the most likely one, in [0, 1].
    repetition_penalty : float
        Divides positive (multiplies negative) logits of tokens seen in prompt or output; 1 is off.
    presence_penalty, frequency_penalty : float
        Subtracted from logits of tokens in the output, once or per occurrence.
    logit_bias : mapping of int to float
        Added to the logits of single token ids before anything else.
    seed : int or None
        Key of the noise, below 2**64. ``None`` draws one; the receipt reports it.
    stop : str or sequence of str
        Strings that end the text. They are not part of it, and no part of one is ever streamed.
    stop_token_ids : sequence of int
        Token ids that end the text, besides the model's own.
    ignore_eos : bool
        Go on after the model's end-of-sequence tokens.
    logprobs : int or None
        Report log-probabilities of the chosen token and of this many most likely ones, before
        filters and temperature.
    n : int
        Number of independent texts for the prompt; text `i` uses seed ``seed + i``.
    skip_special_tokens : bool
        Leave special tokens out of the text (they stay in the token ids).
    json_schema : mapping, str or class with `model_json_schema`, optional
        The text is JSON that this schema allows; ``{"type": "object"}`` is any object. Layout is
        up to the model. A class of pydantic's stands for its schema.
    regex : str, optional
        The whole text matches this expression (syntax of Rust's `regex`, no look-around).
    choice : sequence of str, optional
        The text is one of these.
    grammar : str, optional
        The text follows the rule `start` of this grammar (llguidance's dialect of Lark).
    thinking_budget : int, optional
        Tokens of the thinking at most, in `Engine.chat` with models that write ``<think>``.

    Notes
    -----
    At most one of `json_schema`, `regex`, `choice` and `grammar` may be given. In `Engine.chat`
    the rule is about the answer: the model thinks freely before. It holds for whatever comes, but
    `max_tokens` may cut the text off. The text then ends by the rule alone: `ignore_eos` has no
    effect.
    """

    max_tokens: int | None = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None
    seed: int | None = None
    stop: str | Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    n: int = 1
    skip_special_tokens: bool = True
    json_schema: Mapping[str, Any] | str | type | None = None
    regex: str | None = None
    choice: Sequence[str] | None = None
    grammar: str | None = None
    thinking_budget: int | None = None

    def __post_init__(self) -> None:
        """Turn values into plain ones, so that a mistake is reported where it was made."""
        for name, (low, high) in _INTEGERS.items():
            value = getattr(self, name)
            if not (value is None and name in _OPTIONAL):
                self._set(name, _integer(name, value, low, high))
        for name in _NUMBERS:
            self._set(name, _number(name, getattr(self, name)))
        for name in ("ignore_eos", "skip_special_tokens"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidRequestError(name, f"{getattr(self, name)!r} is not True or False")
        stop = (self.stop,) if isinstance(self.stop, str) else _items("stop", self.stop)
        for text in stop:
            utf8("stop", text)
        self._set("stop", stop)
        ids = _items("stop_token_ids", self.stop_token_ids)
        self._set("stop_token_ids", tuple(_token_id("stop_token_ids", token) for token in ids))
        if not isinstance(self.logit_bias, Mapping | None):
            raise InvalidRequestError("logit_bias", "expected a mapping of token ids to numbers")
        bias = (self.logit_bias or {}).items()
        pairs = {_token_id("logit_bias", t): _number("logit_bias", b) for t, b in bias}
        self._set("logit_bias", pairs)
        if self.choice is not None:
            if isinstance(self.choice, str):
                raise InvalidRequestError("choice", "a string is not a list of choices")
            self._set("choice", _items("choice", self.choice))
        self._constraint()

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def request(self, index: int, seed: int, room: int) -> dict[str, Any]:
        """Arguments of one submission to the extension module.

        Parameters
        ----------
        index : int
            Which of the `n` texts.
        seed : int
            Seed of text 0.
        room : int
            Positions left after the prompt, used where `max_tokens` is ``None``.
        """
        return {
            "max_tokens": max(room, 1) if self.max_tokens is None else self.max_tokens,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "logit_bias": list((self.logit_bias or {}).items()),
            "seed": (seed + index) % (1 << 64),
            "stop": list(self.stop),
            "stop_token_ids": list(self.stop_token_ids),
            "ignore_eos": self.ignore_eos,
            "logprobs": self.logprobs,
            "skip_special_tokens": self.skip_special_tokens,
            "constraint": self._constraint(),
            "thinking_budget": self.thinking_budget,
        }

    def _constraint(self) -> tuple[str, str] | None:
        """Name and value of the parameter that constrains the text."""
        names = ("json_schema", "regex", "choice", "grammar")
        given = [name for name in names if getattr(self, name) is not None]
        if not given:
            return None
        if len(given) > 1:
            raise InvalidRequestError(
                given[1], f"`{given[0]}` already says what the text has to be"
            )
        name, value = given[0], getattr(self, given[0])
        if name == "json_schema":
            return name, _schema(value)
        if name == "choice":
            for text in value:
                utf8("choice", text)
            return name, json.dumps(value)
        return name, utf8(name, value)


def _integer(name: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InvalidRequestError(name, f"{value!r} is not an integer")
    number = operator.index(value)
    if not low <= number <= high:
        raise InvalidRequestError(name, f"{number} is not within [{low}, {high}]")
    return number


def _schema(value: object) -> str:
    if hasattr(value, "model_json_schema"):
        value = value.model_json_schema()
    if isinstance(value, str):
        return utf8("json_schema", value)
    if not isinstance(value, Mapping):
        raise InvalidRequestError("json_schema", f"{value!r} is no schema")
    try:
        return json.dumps(dict(value), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        reason = f"cannot be written as JSON: {error}"
        raise InvalidRequestError("json_schema", reason) from None


def _token_id(name: str, value: object) -> int:
    return _integer(name, value, 0, (1 << 32) - 1)


def _number(name: str, value: object) -> float:
    if isinstance(value, bool | str | bytes) or not hasattr(value, "__float__"):
        raise InvalidRequestError(name, f"{value!r} is not a number")
    try:
        return float(value)
    except (OverflowError, TypeError, ValueError) as error:
        raise InvalidRequestError(name, str(error)) from None


def _items(name: str, value: object) -> tuple[Any, ...]:
    if isinstance(value, bytes | Mapping) or not isinstance(value, Iterable):
        raise InvalidRequestError(name, f"{value!r} is not a sequence")
    return tuple(value)
