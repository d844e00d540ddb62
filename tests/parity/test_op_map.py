"""Op names are the map of the code: whoever knows one place knows all."""

import re
from pathlib import Path

import pytest
from tiny._reference import reference

HERE = Path(__file__).resolve().parent
BACKEND = HERE.parents[1] / "crates" / "kilotok" / "src" / "backend" / "cpu"


def engine_ops():
    """Return the ops of the CPU backend: files whose first line says so."""
    first = re.compile(r"//! Ops? `")
    return sorted(f.stem for f in BACKEND.glob("*.rs") if first.match(f.read_text()))


def test_the_backend_has_ops():
    assert len(engine_ops()) > 15


@pytest.mark.parametrize("op", engine_ops())
def test_op_has_a_reference_and_a_parity_test(op):
    assert callable(getattr(reference.ops, op))
    assert (HERE / f"test_{op}.py").exists()
