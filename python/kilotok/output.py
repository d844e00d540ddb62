"""What a generation returns: whole texts and streamed pieces of them."""

from dataclasses import dataclass
from typing import Any, Literal

from kilotok.receipt import Receipt

__all__ = ["Completion", "FinishReason", "Output", "Piece", "TokenLogprobs"]

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probabilities at one generated position, before filters and temperature.

    Attributes
    ----------
    token_id : int
        The chosen token.
    logprob : float
        Its log-probability.
    top : tuple of (int, float)
        Most likely token ids with their log-probabilities, best first.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One generated text.

    Attributes
    ----------
    text : str or None
        ``None`` where the model has no tokenizer.
    token_ids : list of int
        Generated tokens, a final stop token included.
    logprobs : list of TokenLogprobs or None
        One per token where they were asked for.
    finish_reason : "stop" or "length"
        Whether a stop token or string ended it, or `max_tokens`.
    stop_reason : int, str or None
        The stop token id or the stop string that ended it.
    receipt : Receipt
        What it cost.
    """

    text: str | None
    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None
    finish_reason: FinishReason
    stop_reason: int | str | None
    receipt: Receipt


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """The answer to one prompt: `n` completions; the plain attributes are those of the first.

    Attributes
    ----------
    prompt_token_ids : list of int
        Tokens of the prompt as the model saw them.
    completions : tuple of Completion
        All `n` texts, in order of their seeds.
    """

    prompt_token_ids: list[int]
    completions: tuple[Completion, ...]

    @property
    def text(self) -> str | None:
        """Text of the first completion."""
        return self.completions[0].text

    @property
    def token_ids(self) -> list[int]:
        """Generated tokens of the first completion."""
        return self.completions[0].token_ids

    @property
    def logprobs(self) -> list[TokenLogprobs] | None:
        """Log-probabilities of the first completion."""
        return self.completions[0].logprobs

    @property
    def finish_reason(self) -> FinishReason:
        """Why the first completion ended."""
        return self.completions[0].finish_reason

    @property
    def stop_reason(self) -> int | str | None:
        """Stop token id or stop string that ended the first completion."""
        return self.completions[0].stop_reason

    @property
    def receipt(self) -> Receipt:
        """What the first completion cost."""
        return self.completions[0].receipt

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for `json.dumps`."""
        return {
            "prompt_token_ids": self.prompt_token_ids,
            "completions": [
                {
                    "text": c.text,
                    "token_ids": c.token_ids,
                    "logprobs": None if c.logprobs is None else [_plain(x) for x in c.logprobs],
                    "finish_reason": c.finish_reason,
                    "stop_reason": c.stop_reason,
                    "receipt": c.receipt.to_dict(),
                }
                for c in self.completions
            ],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """What one round added to a streamed text.

    Joined over a stream, `text` and `token_ids` are those of the `Completion`.

    Attributes
    ----------
    text : str or None
        Text that is now certain; may be empty. ``None`` where the model has no tokenizer.
    token_ids : list of int
        Tokens of this round.
    logprobs : list of TokenLogprobs or None
        One per token where they were asked for.
    index : int
        Which of the `n` texts.
    finish_reason, stop_reason, receipt
        As in `Completion`, on the last piece of a text; ``None`` before.
    """

    text: str | None
    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None = None
    index: int = 0
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    receipt: Receipt | None = None


def _plain(entry: TokenLogprobs) -> dict[str, Any]:
    return {
        "token_id": entry.token_id,
        "logprob": entry.logprob,
        "top": [list(pair) for pair in entry.top],
    }
