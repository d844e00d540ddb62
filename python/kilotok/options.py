"""Options of an engine, checked where their names are public."""

import json
from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from kilotok.errors import InvalidRequestError
from kilotok.progress import ProgressCallback, callback_for

__all__ = ["EngineOptions", "Speculation", "core_options", "json_text", "require"]

#: ``"off"``, ``"auto"``, or the rows of a block: the anchor and the drafted tokens.
Speculation = Literal["off", "auto"] | int


class EngineOptions(TypedDict, total=False):
    """Keyword arguments that every way of making an `Engine` takes; see there."""

    device: str
    mode: str
    speculation: Speculation
    threads: int | None
    max_batch: int | None
    max_positions: int | None
    kv_tokens: int | None
    prefill_chunk: int | None
    prefix_cache_mib: int | None
    progress: bool | ProgressCallback
    simd: str | None


def core_options(
    *,
    label: str,
    device: str = "auto",
    mode: str = "auto",
    speculation: Speculation = "auto",
    threads: int | None = None,
    max_batch: int | None = None,
    max_positions: int | None = None,
    kv_tokens: int | None = None,
    prefill_chunk: int | None = None,
    prefix_cache_mib: int | None = None,
    progress: bool | ProgressCallback = True,
    simd: str | None = None,
) -> dict[str, Any]:
    """What the extension module takes; numbers are checked here, where the names are public."""
    counts = {
        "threads": threads,
        "max_batch": max_batch,
        "max_positions": max_positions,
        "kv_tokens": kv_tokens,
        "prefill_chunk": prefill_chunk,
        "prefix_cache_mib": prefix_cache_mib,
    }
    for name, value in counts.items():
        if value is not None:
            require(name, value, int)
            least = 0 if name == "prefix_cache_mib" else 1
            if not least <= value < 1 << 48:
                raise InvalidRequestError(name, f"{value} is not at least {least}")
    require("device", device, str)
    require("mode", mode, str)
    require("simd", simd, str | None)
    return {
        "device": device,
        "mode": mode,
        "speculation": speculation,
        "simd": simd,
        "progress": callback_for(progress, label),
        **counts,
    }


def require(name: str, value: object, kind: Any) -> None:
    """Callers without a type checker get the parameter's name instead of a stray TypeError."""
    if isinstance(value, bool) or not isinstance(value, kind):
        expected = getattr(kind, "__name__", str(kind))
        raise InvalidRequestError(name, f"{value!r} is not {expected}")


def json_text(parameter: str, value: Mapping[str, Any]) -> str:
    """A mapping as JSON text."""
    try:
        return json.dumps(dict(value), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(parameter, f"cannot be written as JSON: {error}") from None
