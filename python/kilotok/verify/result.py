"""What one check found."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Outcome", "Result", "failed", "not_run", "passed"]

Outcome = Literal["PASS", "FAIL", "NOT RUN"]


@dataclass(frozen=True, slots=True)
class Result:
    """One line of a certificate.

    Attributes
    ----------
    check : str
        What was claimed.
    outcome : "PASS", "FAIL" or "NOT RUN"
    detail : str
        What was compared, where it first differed, or why nothing was compared.
    """

    check: str
    outcome: Outcome
    detail: str


def passed(check: str, detail: str) -> Result:
    """Everything was compared and nothing differed."""
    return Result(check, "PASS", detail)


def failed(check: str, detail: str) -> Result:
    """Something differed."""
    return Result(check, "FAIL", detail)


def not_run(check: str, reason: str) -> Result:
    """Nothing was compared."""
    return Result(check, "NOT RUN", reason)
