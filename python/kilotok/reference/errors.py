"""Errors of the reference implementation."""


class FormatError(ValueError):
    """A checkpoint or tensor not understood; the message names it and what was expected."""
