"""Checks, on the user's own machine, that the engine keeps its promises."""

from kilotok.verify.checks import run_checks
from kilotok.verify.result import Outcome, Result
from kilotok.verify.subject import Forward, Prompt, Subject

__all__ = ["Forward", "Outcome", "Prompt", "Result", "Subject", "run_checks"]
