"""`kilotok drafter check`: serve, read, compare, and say what is wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kilotok import _core
from kilotok.engine import Engine
from kilotok.errors import InvalidRequestError, ModelFormatError
from kilotok.training.doctor.diagnose import (
    Case,
    Finding,
    Served,
    better_reading,
    explain,
    score,
)
from kilotok.training.doctor.files import check_files
from kilotok.training.doctor.forward import Parts, Text, draft_logits
from kilotok.training.doctor.patient import read_parts, read_target, read_texts, write_texts
from kilotok.training.doctor.reading import Reading, reading_of
from kilotok.training.record import read_record

__all__ = ["Log", "Report", "check", "check_texts", "examine", "read_log"]

#: First drafts of a drafter that fits its target are right more often than this.
_FIRST = 0.5

Prompts = Sequence[tuple[Sequence[int], str]]


@dataclass(frozen=True)
class Report:
    """What the doctor found.

    Attributes
    ----------
    findings : faults first.
    categories : per category requests, served tau, and the tau the trainer measured, if known.
    tau : of the drafter as its files say, over the examined blocks.
    best_tau : of the best reading.
    agreement : share of served drafts that are what the files say.
    """

    findings: list[Finding]
    categories: dict[str, dict[str, Any]]
    tau: float | None = None
    best_tau: float | None = None
    agreement: float | None = None

    @property
    def faults(self) -> list[str]:
        """Names of what is wrong."""
        return [f.name for f in self.findings if f.is_fault]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for `json.dumps`."""
        return asdict(self) | {"faults": self.faults}


@dataclass(frozen=True)
class Log:
    """Drafts and counters of another engine.

    Attributes
    ----------
    texts : (token ids, anchor, drafts) of blocks.
    totals : (tokens, rounds, accepted, tau it claims) of requests.
    """

    texts: list[tuple[list[int], int, list[int]]]
    totals: list[tuple[int, int, int, float]]


def read_log(path: Path) -> Log:
    """Read a JSONL log of another engine.

    A line is a block, ``{"token_ids": [...], "anchor": position, "drafts": [...]}`` with the text
    up to at least the end of the block, or counters of requests, ``{"tokens": generated,
    "rounds": r, "accepted": a, "tau": claimed}``.
    """
    texts, totals = [], []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
            if "drafts" in item:
                texts.append((item["token_ids"], item["anchor"], item["drafts"]))
            else:
                totals.append((item["tokens"], item["rounds"], item["accepted"], item["tau"]))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise InvalidRequestError("--served", f"{path}, line {number}: {error!r}") from None
    return Log(texts, totals)


def check(
    target: Path,
    drafter: Path,
    prompts: Prompts,
    *,
    tokens: int = 64,
    blocks: int = 96,
    log: Log | None = None,
    threads: int | None = None,
) -> Report:
    """Examine a drafter on prompts of (token ids, category).

    Parameters
    ----------
    tokens : length of the target's answers.
    blocks : drafted blocks to judge by.
    log : of another engine, to be explained instead of this one's.
    """
    longest = max(len(ids) for ids, _ in prompts) + tokens + 1
    try:
        with Engine(
            target, drafter=drafter, progress=False, threads=threads, max_positions=longest
        ) as engine:
            size = engine.info()["drafter"]["block_size"]
            texts, histograms = write_texts(engine, prompts, tokens, size)
    except ModelFormatError as error:
        return Report([Finding("load", f"the engine refuses it: {error}")], {})
    parts = read_parts(read_target(target), drafter)
    read = read_texts(target, parts, texts, threads)
    categories = _categories(texts, histograms, read_record(drafter))
    return check_texts(target, drafter, parts, read, blocks, log, categories, threads)


def check_texts(
    target: Path,
    drafter: Path,
    parts: Parts,
    texts: Sequence[Text],
    blocks: int = 96,
    log: Log | None = None,
    categories: dict[str, dict[str, Any]] | None = None,
    threads: int | None = None,
) -> Report:
    """As `check`, of texts that were read before (`patient.read_texts`)."""
    case = Case.of(parts, texts, blocks)
    findings = check_files(target, drafter, parts)
    if log is None:
        served_case, served = case, _served(target, drafter, case, threads)
    else:
        findings += _counters(log)
        theirs = [(tokens, 1, "served") for tokens, _, _ in log.texts]
        read = read_texts(target, parts, theirs, threads) if theirs else []
        served_case = Case(parts, read, [])
        served = [Served(i, at, tuple(made)) for i, (_, at, made) in enumerate(log.texts)]
    return examine(case, reading_of(parts.config), served_case, served, findings, categories)


def examine(
    case: Case,
    reading: Reading,
    served_case: Case,
    served: Sequence[Served],
    known: Sequence[Finding] = (),
    categories: dict[str, dict[str, Any]] | None = None,
) -> Report:
    """Ask both questions, of texts that are there.

    Parameters
    ----------
    case : to judge readings by.
    served_case : the texts that `served` counts; its anchors are not used.
    known : findings of files and counters.
    """
    findings = list(known)
    tau, _ = score(case, reading)
    best, better = better_reading(case, reading)
    best_tau, _ = score(case, best)
    if not any(f.is_fault for f in findings):
        # What files prove needs no guess beside it.
        findings += better
    agreement = None
    if served:
        agreement, fault = explain(served_case, reading, served)
        findings += [] if fault is None else [fault]
    if not any(f.is_fault for f in findings) and _first(case, reading) < _FIRST:
        findings.append(
            Finding(
                "pairing",
                "drafts are what the files say and no other reading is accepted more: the drafter "
                "was trained for other weights, another chat template or other text; train it on "
                "this target's answers with `kilotok train-drafter --start`",
            )
        )
    findings.sort(key=lambda f: not f.is_fault)
    return Report(findings, categories or {}, tau, best_tau, agreement)


def _first(case: Case, reading: Reading) -> float:
    """Share of first drafts that are right."""
    right = count = 0
    for text, anchors in zip(case.texts, case.anchors, strict=True):
        if anchors:
            at = np.asarray(anchors)
            first = draft_logits(case.parts, reading, text, anchors)[:, 0].argmax(-1)
            right += int((first == text.tokens[at + 1]).sum())
            count += len(anchors)
    return right / max(count, 1)


def _served(target: Path, drafter: Path, case: Case, threads: int | None) -> list[Served]:
    """What this engine drafts behind the anchors of a case."""
    longest = max(len(text.tokens) for text in case.texts)
    reader = _core.open_taps(
        str(target), drafter=str(drafter), max_positions=longest, threads=threads
    )
    count = case.parts.config.block_size - 1
    served = []
    for number, (text, anchors) in enumerate(zip(case.texts, case.anchors, strict=True)):
        some = [anchor for anchor in anchors if anchor > 0][::2]
        if some:
            made = reader.draft(text.tokens.tolist(), some, count)
            served += [Served(number, a, tuple(d)) for a, d in zip(some, made, strict=True)]
    return served


def _counters(log: Log) -> list[Finding]:
    tokens, rounds, accepted = (sum(row[i] for row in log.totals) for i in range(3))
    if not rounds:
        return []
    tau = 1 + accepted / rounds
    claimed = sum(row[3] * row[1] for row in log.totals) / rounds
    findings = []
    if abs(claimed - tau) > 0.02 * tau:
        findings.append(
            Finding(
                "counting",
                f"the log claims tau {claimed:.2f}; {accepted} accepted drafts in {rounds} rounds "
                f"are {tau:.2f}",
            )
        )
    # A request's first token comes from the prefill, and its last round may be cut short.
    block = max(2.0, 2 * tau)
    spare = block * len(log.totals)
    if abs(tokens - (accepted + rounds)) > max(spare, 0.02 * tokens):
        findings.append(
            Finding(
                "counting",
                f"the log counts {tokens} tokens, but {rounds} rounds with {accepted} accepted "
                f"drafts emit {accepted + rounds}: rounds or drafts are not all counted",
            )
        )
    return findings


def _categories(
    texts: Sequence[tuple[list[int], int, str]],
    histograms: Sequence[Sequence[int]],
    record: dict[str, Any],
) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for category in sorted({c for _, _, c in texts}):
        mine = [h for (_, _, c), h in zip(texts, histograms, strict=True) if c == category]
        rounds = sum(map(sum, mine))
        accepted = sum(k * n for h in mine for k, n in enumerate(h))
        rows[category] = {
            "requests": len(mine),
            "rounds": rounds,
            "tau": round(1 + accepted / rounds, 3) if rounds else None,
            "trained_tau": record.get("tau", {}).get(category),
        }
    return rows
