"""Makes ``kilotok.reference`` importable from the source tree when the package is not installed.

The oracle needs numpy alone, so writing checkpoints and golden vectors must not need the compiled
extension that the package itself imports.
"""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path


def _load() -> types.ModuleType:
    try:
        return importlib.import_module("kilotok.reference")
    except ImportError:
        for name in [m for m in sys.modules if m.split(".")[0] == "kilotok"]:
            del sys.modules[name]
    package = types.ModuleType("kilotok")
    package.__path__ = [str(Path(__file__).resolve().parents[2] / "python" / "kilotok")]
    sys.modules["kilotok"] = package
    return importlib.import_module("kilotok.reference")


reference = _load()
