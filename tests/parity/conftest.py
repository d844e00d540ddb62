"""Fixtures of the parity tests: the engine's debug interface and fresh checkpoints."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import tiny
from parity.probe import Probe, margins
from tiny._reference import reference

#: Fresh weights in every run; set KILOTOK_TEST_SEED to repeat one.
RUN_SEED = int(os.environ.get("KILOTOK_TEST_SEED") or int.from_bytes(os.urandom(3)))
#: Two experts closer than this may swap by rounding; such a draw is no test.
CLEAR = 1e-5


@pytest.fixture(scope="session")
def core():
    """Return the extension module, or skip where it has no debug interface."""
    module = pytest.importorskip("kilotok._core", reason="the extension is not installed")
    if not hasattr(module, "debug_forward"):
        pytest.skip("the installed extension has no debug_forward")
    return module


def pytest_generate_tests(metafunc):
    """Run tests that take ``simd`` once per path that this machine has."""
    if "simd" in metafunc.fixturenames:
        try:
            from kilotok import _core

            paths = _core.cpu_info()["simd"]
        except (ImportError, AttributeError):
            paths = ["scalar"]
        metafunc.parametrize("simd", paths)


@pytest.fixture
def probe(core, tmp_path, request):
    """``probe(preset, *edits, tokens=prompt, **changes)`` writes a checkpoint and opens it.

    Taps cover all layers. Edits change the stored tensors, ``draft_edits`` the drafter's. Weights
    are drawn anew until the reference's expert choices on ``tokens`` are clear.
    """

    def build(preset="flash", *edits, tokens=None, draft=None, draft_edits=(), **changes):
        p = tiny.PRESETS[preset] if isinstance(preset, str) else preset
        p = p.but(**changes)
        taps = tuple(range(len(p.sliding)))
        p = p.but(draft=replace(p.draft or tiny.DraftShape(), **{"taps": taps, **(draft or {})}))
        # Shown where a test fails.
        print(f"KILOTOK_TEST_SEED={RUN_SEED}")
        for attempt in range(20):
            name = f"{request.node.name}{attempt}".encode()
            seed = (RUN_SEED * 1_000_003 + sum(name) * 1009 + attempt) % 2**32
            model = tiny.write(tmp_path, p, seed)
            rng = np.random.default_rng(seed)
            for edit in edits:
                edit(model.tensors, rng)
            for edit in draft_edits:
                edit(model.draft_tensors, rng)
            tiny.files.write_model(tmp_path, "model", model.tensors, p.shards)
            inner, stem = tmp_path / "dflash", tiny.DRAFT_STEM
            tiny.files.write_model(inner, stem, model.draft_tensors, p.shards)
            opened = Probe(core, tmp_path)
            if tokens is None or margins(lambda o=opened: o.expected(tokens), p.top_k) > CLEAR:
                return opened
        raise AssertionError("no draw has clear expert choices")

    return build


@pytest.fixture
def prompt(request):
    """``prompt(length, vocab)`` draws token ids."""

    def draw(length, vocab=150):
        seed = [RUN_SEED, *request.node.name.encode()]
        return np.random.default_rng(seed).integers(0, vocab, length).tolist()

    return draw


@pytest.fixture(scope="session")
def ops():
    """Return the reference ops."""
    return reference.ops
