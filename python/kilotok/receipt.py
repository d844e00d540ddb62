"""The speed receipt: what a generation cost, measured."""

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Receipt"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """What one generated text cost.

    Attributes
    ----------
    prompt_tokens : int
        Tokens of the prompt.
    cached_tokens : int
        Of them, tokens at the front that were in the prefix cache and were not fed again.
    queue_ms : float
        Time from submission to admission, milliseconds.
    prefill_ms : float
        Time from admission to the first token, milliseconds.
    ttft_ms : float
        Time from submission to the first token, milliseconds.
    tokens : int
        Generated tokens.
    rounds : int
        Target forward passes after the prefill, the plain ones that keep `plain_step_ms` measured
        included.
    tau : float
        Tokens per round with drafts, the bonus token included; 1 where nothing was drafted.
    accepted_histogram : tuple of int
        Element `k`: rounds with drafts in which exactly `k` were accepted.
    tokens_per_s : float or None
        Tokens per second from the first token to the last; ``None`` for a single token.
    plain_step_ms : float or None
        Measured time of one forward pass without drafts; ``None`` where none was measured.
    speedup : float or None
        `tokens_per_s` over the rate of plain steps; ``None`` where either is unknown.
    seed : int
        Key of the noise; submit it again for the same text.
    warning : str or None
        Why speculation looks broken, where a healthy drafter should accept and does not.
    """

    prompt_tokens: int
    cached_tokens: int
    queue_ms: float
    prefill_ms: float
    ttft_ms: float
    tokens: int
    rounds: int
    tau: float
    accepted_histogram: tuple[int, ...]
    tokens_per_s: float | None
    plain_step_ms: float | None
    speedup: float | None
    seed: int
    warning: str | None

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, ready for `json.dumps`."""
        return asdict(self) | {"accepted_histogram": list(self.accepted_histogram)}

    def table(self) -> str:
        """Render as a compact table of a few lines, for a terminal."""
        rows = [
            (
                "prompt",
                f"{self.prompt_tokens} tokens" + self._cached(),
                f"prefill {self.prefill_ms:.1f} ms",
                f"first token {self.ttft_ms:.1f} ms",
            ),
            (
                "output",
                f"{self.tokens} tokens",
                f"{self.rounds} rounds",
                self._rate(),
            ),
            ("speculation", f"tau {self.tau:.2f}", *self._comparison()),
        ]
        if len(self.accepted_histogram) > 1:
            counts = " ".join(f"{k}:{n}" for k, n in enumerate(self.accepted_histogram))
            rows.append(("accepted", counts, "", ""))
        widths = [max(len(row[i]) for row in rows[:3]) for i in range(3)]
        lines = []
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            lines.append("  ".join([*cells, *row[3:]]).rstrip())
        if self.warning is not None:
            lines.append(f"warning: {self.warning}")
        return "\n".join(lines)

    def _cached(self) -> str:
        return f" ({self.cached_tokens} cached)" if self.cached_tokens else ""

    def _rate(self) -> str:
        return "" if self.tokens_per_s is None else f"{self.tokens_per_s:.1f} tokens/s"

    def _comparison(self) -> tuple[str, str]:
        if self.plain_step_ms is None or self.speedup is None:
            return "no plain step measured", ""
        return f"plain step {self.plain_step_ms:.2f} ms", f"speedup {self.speedup:.2f}x"

    def __str__(self) -> str:
        """One line."""
        rate = "" if self.tokens_per_s is None else f" at {self.tokens_per_s:.1f}/s"
        speedup = "" if self.speedup is None else f", {self.speedup:.2f}x plain decoding"
        return (
            f"{self.tokens} tokens{rate} (tau {self.tau:.2f} over {self.rounds} rounds{speedup}), "
            f"first after {self.ttft_ms:.1f} ms"
        )
