"""kilotok: MXFP4 mixture-of-experts models with DFlash speculative decoding.

>>> from kilotok import Engine, SamplingParams
>>> with Engine() as engine:  # doctest: +SKIP
...     print(engine.generate("def quicksort(xs):", SamplingParams(max_tokens=64)).text)
"""

from kilotok._core import __version__
from kilotok.engine import Engine
from kilotok.errors import (
    CancelledError,
    EngineDeadError,
    Error,
    InvalidRequestError,
    ModelFormatError,
    NoGpuError,
    OutOfMemoryError,
    UnsupportedError,
)
from kilotok.output import Completion, Output, Piece, TokenLogprobs
from kilotok.receipt import Receipt
from kilotok.sampling import SamplingParams

__all__ = [
    "CancelledError",
    "Completion",
    "Engine",
    "EngineDeadError",
    "Error",
    "InvalidRequestError",
    "ModelFormatError",
    "NoGpuError",
    "OutOfMemoryError",
    "Output",
    "Piece",
    "Receipt",
    "SamplingParams",
    "TokenLogprobs",
    "UnsupportedError",
    "__version__",
]
