"""Typed errors. Everything that kilotok raises on purpose is an `Error`.

The extension module raises these same classes, so `except kilotok.Error` catches both sides.
"""

__all__ = [
    "CancelledError",
    "EngineDeadError",
    "Error",
    "InvalidRequestError",
    "ModelFormatError",
    "NoGpuError",
    "OutOfMemoryError",
    "UnsupportedError",
]


class Error(Exception):
    """Base of every error of this package."""


class ModelFormatError(Error):
    """A checkpoint is missing, damaged or not understood; names the file and the tensor or key."""


class InvalidRequestError(Error, ValueError):
    """A parameter is out of range or of the wrong kind.

    Attributes
    ----------
    parameter : str
        Public name of the parameter that is to blame.
    reason : str
        What was found and what was expected.
    """

    def __init__(self, parameter: str, reason: str) -> None:
        super().__init__(f"invalid `{parameter}`: {reason}")
        self.parameter = parameter
        self.reason = reason

    def __reduce__(self) -> tuple[type["InvalidRequestError"], tuple[str, str]]:
        """Pickle by the two arguments instead of by the message."""
        return type(self), (self.parameter, self.reason)


class OutOfMemoryError(Error, MemoryError):
    """Something does not fit: into memory, into the KV page budget or into the request queue."""


class CancelledError(Error):
    """The request was cancelled by its owner."""


class EngineDeadError(Error):
    """The engine was closed or has failed; no call on it can succeed any more."""


class UnsupportedError(Error):
    """What was asked for is understood, but this backend or layout cannot do it."""


class NoGpuError(Error):
    """A GPU was asked for and none can be used."""
