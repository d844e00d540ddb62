"""Sampling parameters of one request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from kilotok.errors import InvalidRequestError

__all__ = ["SamplingParams"]


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

    def __post_init__(self) -> None:
        """Check the kinds of the fields, so that a mistake is reported where it was made."""
        for name in ("top_k", "n"):
            _require_int(name, getattr(self, name))
        for name in ("max_tokens", "seed", "logprobs"):
            if getattr(self, name) is not None:
                _require_int(name, getattr(self, name))
        for name in (
            "temperature",
            "top_p",
            "min_p",
            *tuple(f.name for f in fields(self) if f.name.endswith("_penalty")),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InvalidRequestError(name, f"{value!r} is not a number")
        if not isinstance(self.stop, str) and not all(isinstance(s, str) for s in self.stop):
            raise InvalidRequestError("stop", "expected a string or strings")
        if not 1 <= self.n <= 256:
            raise InvalidRequestError("n", f"{self.n} is not within [1, 256]")
        for name, bits in (("max_tokens", 32), ("top_k", 32), ("logprobs", 32), ("seed", 64)):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1 << bits:
                raise InvalidRequestError(name, f"{value} is not within [0, 2**{bits})")

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
            "temperature": float(self.temperature),
            "top_k": self.top_k,
            "top_p": float(self.top_p),
            "min_p": float(self.min_p),
            "repetition_penalty": float(self.repetition_penalty),
            "presence_penalty": float(self.presence_penalty),
            "frequency_penalty": float(self.frequency_penalty),
            "logit_bias": _logit_bias(self.logit_bias),
            "seed": (seed + index) % (1 << 64),
            "stop": [self.stop] if isinstance(self.stop, str) else list(self.stop),
            "stop_token_ids": [_token_id("stop_token_ids", t) for t in self.stop_token_ids],
            "ignore_eos": bool(self.ignore_eos),
            "logprobs": self.logprobs,
            "skip_special_tokens": bool(self.skip_special_tokens),
        }


def _require_int(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequestError(name, f"{value!r} is not an integer")


def _token_id(name: str, value: object) -> int:
    _require_int(name, value)
    assert isinstance(value, int)
    if not 0 <= value < 1 << 32:
        raise InvalidRequestError(name, f"{value} is not a token id")
    return value


def _logit_bias(bias: Mapping[int, float] | None) -> list[tuple[int, float]]:
    return [(_token_id("logit_bias", t), float(b)) for t, b in (bias or {}).items()]
