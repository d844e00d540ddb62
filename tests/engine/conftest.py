"""Engines over tiny random checkpoints."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tiny

from kilotok import Engine


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Callable[..., Path]:
    """`checkpoint(preset, seed=0, **changes)` writes one once and returns its directory."""
    written: dict[object, Path] = {}

    def write(preset: str = "v26", seed: int = 0, **changes: object) -> Path:
        key = (preset, seed, *sorted(changes.items()))
        if key not in written:
            path = tmp_path_factory.mktemp(f"{preset}-{seed}")
            tiny.write(path, tiny.PRESETS[preset].but(**changes), seed)
            written[key] = path
        return written[key]

    return write


@pytest.fixture(scope="session")
def engine(checkpoint) -> Iterator[Engine]:
    """A shared engine with text: tests must leave nothing running on it."""
    with Engine(checkpoint("v26"), progress=False, max_batch=8) as engine:
        yield engine


@pytest.fixture(scope="session")
def ids_engine(checkpoint) -> Iterator[Engine]:
    """A shared engine without a tokenizer."""
    with Engine(checkpoint("pro"), progress=False, max_batch=8) as engine:
        yield engine


@pytest.fixture(scope="session")
def settled() -> Callable[[Engine], None]:
    """`settled(engine)` waits until nothing is in flight and fails if that takes long."""

    def wait(engine: Engine) -> None:
        deadline = time.monotonic() + 20
        while True:
            stats = engine.stats()
            in_flight = {k: stats[k] for k in ("running", "waiting", "pages_used")}
            if not any(in_flight.values()):
                return
            assert time.monotonic() < deadline, f"leaked: {in_flight}"
            time.sleep(0.005)

    return wait
