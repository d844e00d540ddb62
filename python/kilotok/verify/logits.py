"""Checks on logits: bits where the engine promises bits, a tolerance where it promises one."""

import importlib.util

from kilotok.verify.result import Result, failed, not_run, passed
from kilotok.verify.subject import Subject

__all__ = ["check_chunks", "check_gpu_against_cpu", "check_modes"]

#: docs/gpu_engine.md: bfloat16 activations move a row of logits by up to 3 % of its largest one.
#: Where two experts are as good as each other, rounding chooses and a row may be off by an expert.
LOGITS_LIMIT = 3e-2
OTHER_EXPERT = 0.25
REROUTED = 0.2

_LENGTH = 90
_WORD = 4


def _differs(got: bytes, want: bytes) -> str | None:
    if got == want:
        return None
    if len(got) != len(want):
        return f"{len(got)} bytes, expected {len(want)}"
    at = next(i for i, (a, b) in enumerate(zip(got, want, strict=True)) if a != b)
    return f"first at value {at // _WORD}"


def check_chunks(subject: Subject, name: str, device: str) -> Result:
    """Rows do not depend on the chunks of a prefill, nor on rows of other sequences."""
    tokens = subject.probe(_LENGTH)
    others = [tokens[5:6], tokens[3:20], tokens[::-1]]
    modes = ("graph", "persistent") if device == "cuda" else ("persistent",)
    chunks = ((5, False), (13, True)) if subject.quick else ((1, False), (5, False), (8, False))
    settings = chunks if subject.quick else (*chunks, (1, True), (13, True))
    for mode in modes:
        want = subject.forward(tokens, device=device, mode=mode)
        for chunk, has_company in settings:
            got = subject.forward(
                tokens,
                device=device,
                mode=mode,
                chunk=chunk,
                beside=others if has_company else None,
            )
            difference = _differs(got, want)
            if difference:
                company = " beside other sequences" if has_company else ""
                where = f" in mode {mode}" if device == "cuda" else ""
                return failed(name, f"chunk {chunk}{company}{where}: {difference}")
    shown = ", ".join(sorted({str(chunk) for chunk, _ in settings}, key=int))
    return passed(name, f"{len(tokens)} rows, chunks {shown}, alone and beside 3 sequences")


def check_modes(subject: Subject, name: str) -> Result:
    """CUDA graphs and the resident kernel compute the same bits."""
    tokens = subject.probe(_LENGTH)
    graph, persistent = (
        subject.forward(tokens, device="cuda", mode=mode) for mode in ("graph", "persistent")
    )
    difference = _differs(persistent, graph)
    if difference:
        return failed(name, difference)
    return passed(name, f"{len(tokens)} rows, {len(graph) // _WORD} values")


def check_gpu_against_cpu(subject: Subject, name: str) -> Result:
    """Errors per row, and another best token only at a near tie of the CPU's."""
    if importlib.util.find_spec("numpy") is None:
        return not_run(name, "numpy is not installed")
    import numpy as np

    tokens = subject.probe(_LENGTH)
    got, want = (
        np.frombuffer(
            subject.forward(tokens, device=device, mode="persistent"), np.float32
        ).reshape(len(tokens), -1)
        for device in ("cuda", "cpu")
    )
    if not np.isfinite(got).all():
        return failed(name, "the GPU's logits are not finite")
    distance = np.abs(got - want).max(-1)
    errors = distance / np.maximum(np.abs(want).max(-1), np.finfo(np.float32).tiny)
    # How far the CPU's best token leads the one that the GPU takes.
    rows = np.arange(len(tokens))
    lead = (want.max(-1) - want[rows, got.argmax(-1)]) / np.abs(want).max(-1)
    beyond = float((errors > LOGITS_LIMIT).mean())
    detail = (
        f"{len(tokens)} rows: median error {np.median(errors):.2%}, largest {errors.max():.2%}, "
        f"{beyond:.0%} beyond {LOGITS_LIMIT:.0%}; {(lead == 0).mean():.0%} with the same best token"
    )
    if errors.max() > OTHER_EXPERT or beyond > REROUTED:
        return failed(name, detail)
    if lead.max() > OTHER_EXPERT:
        return failed(name, f"{detail}: another token where the lead is {lead.max():.0%}")
    return passed(name, detail)
