"""Which reading is accepted more, and which one explains drafts that were served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from kilotok.training.doctor.bank import Fault, candidates
from kilotok.training.doctor.forward import Parts, Text, draft_logits
from kilotok.training.doctor.reading import Reading, differences

__all__ = ["Case", "Finding", "Served", "better_reading", "explain", "score"]

#: A reading must win this much on both to count: tokens per round, and nats per draft.
_TAU_GAIN, _NATS_GAIN = 0.1, 0.03
_ROUNDS = 5
#: Drafts that agree where only rounding differs; below `_BROKEN` something is wrong, known or not.
_ROUNDING, _BROKEN = 0.985, 0.9
#: Blocks that order readings.
_SCREENED = 12


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes
    ----------
    name : of a fault of the bank, or of a check of files or figures.
    message : what was seen, and what to do.
    is_fault : False for what changes nothing in this engine.
    tau : (before, after) where a reading was tried.
    """

    name: str
    message: str
    is_fault: bool = True
    tau: tuple[float, float] | None = None


@dataclass(frozen=True)
class Case:
    """Blocks to judge readings by: anchors of texts that have a whole block behind them."""

    parts: Parts
    texts: Sequence[Text]
    anchors: Sequence[Sequence[int]]

    @classmethod
    def of(cls, parts: Parts, texts: Sequence[Text], blocks: int) -> Case:
        """About `blocks` anchors, spread evenly over the answers."""
        each = max(1, blocks // max(len(texts), 1))
        size = parts.config.block_size
        anchors = []
        for text in texts:
            last = len(text.tokens) - size
            spread = np.linspace(text.start, max(last, text.start), each).astype(int)
            anchors.append(sorted({int(a) for a in spread if text.start <= a <= last}))
        return cls(parts, texts, anchors)

    def part(self) -> Case:
        """A few blocks of two texts: enough to order readings by, before the whole decides."""
        each = _SCREENED // 2
        fewer = [a[:: max(1, len(a) // each)][:each] for a in self.anchors[:2]]
        return Case(self.parts, self.texts[:2], fewer)


def score(case: Case, reading: Reading) -> tuple[float, np.ndarray]:
    """Tokens per round, and per block the mean log-probability of the truth.

    Log-probabilities are weighted by exp(-(k - 1) / 4): the first slots decide acceptance.
    """
    size = case.parts.config.block_size
    weight = np.exp(-np.arange(size - 1) / 4.0)
    accepted, nats = [], []
    for text, anchors in zip(case.texts, case.anchors, strict=True):
        if not anchors:
            continue
        logits = draft_logits(case.parts, reading, text, anchors)
        labels = text.tokens[np.asarray(anchors)[:, None] + np.arange(1, size)]
        right = logits.argmax(-1) == labels
        accepted.append(right.cumprod(1).sum(1))
        top = logits.max(-1)
        total = top + np.log(np.exp(logits - top[..., None]).sum(-1))
        truth = np.take_along_axis(logits, labels[..., None], -1)[..., 0]
        nats.append((truth - total) @ weight / weight.sum())
    return 1 + float(np.concatenate(accepted).mean()), np.concatenate(nats)


def better_reading(case: Case, reading: Reading) -> tuple[Reading, list[Finding]]:
    """Improve a reading as long as one step of the bank is accepted more.

    Returns the last reading and a finding per fault that was undone on the way.
    """
    few = case.part()
    undone: dict[str, tuple[str, float, float]] = {}
    pool: set[str] | None = None
    tau, nats = score(case, reading)
    for _ in range(_ROUNDS):
        here = score(few, reading)[1].mean()
        tried = [
            (score(few, other)[1].mean() - here, fault, other)
            for fault, other in candidates(reading, case.parts)
            if pool is None or fault.name in pool
        ]
        # A few blocks cannot order what differs little, as refinements of a known fault do.
        refined = [t for t in tried if t[1].name in undone]
        tried = sorted((t for t in tried if t[0] > 0), key=lambda t: -t[0])
        best: tuple[float, np.ndarray, Fault, Reading] | None = None
        shortlist = tried[:5] + [t for t in refined if t not in tried[:5]]
        for _, fault, other in shortlist:
            other_tau, other_nats = score(case, other)
            wins = _wins(other_tau - tau, other_nats - nats, fault.name in undone)
            if wins and (best is None or other_nats.mean() > best[1].mean()):
                best = (other_tau, other_nats, fault, other)
        if best is None:
            break
        pool = {fault.name for _, fault, _ in tried} | {best[2].name}
        before = undone[best[2].name][1] if best[2].name in undone else tau
        tau, nats, fault, reading = best
        undone[fault.name] = (fault.advice.format(**_shown(reading)), before, tau)
    findings = [
        Finding(name, message, tau=(before, after))
        for name, (message, before, after) in undone.items()
    ]
    return reading, findings


def _wins(tau: float, nats: np.ndarray, is_known: bool) -> bool:
    """Whether gains of tau and, per block, of log-probability are more than chance.

    What was already found to be wrong may be refined by less.
    """
    gain = float(nats.mean())
    if is_known:
        return gain > 0.002
    spread = float(nats.std()) / max(len(nats), 1) ** 0.5
    return tau >= _TAU_GAIN and gain >= _NATS_GAIN and gain > 2.5 * spread


@dataclass(frozen=True)
class Served:
    """Drafts that an engine made: behind `anchor` of text number `text`, K of them."""

    text: int
    anchor: int
    drafts: tuple[int, ...]


def explain(case: Case, reading: Reading, served: Sequence[Served]) -> tuple[float, Finding | None]:
    """How many served drafts are those of a reading, and what explains the others.

    Returns the share that agrees (engines round differently, so a little less than 1 is healthy),
    and the fault whose reading agrees most, if that explains most of the difference.
    """
    agreement = _agreement(case, reading, served)
    if agreement >= _ROUNDING:
        return agreement, None
    few = served[:: max(1, len(served) // _SCREENED)]
    tried = [
        (_agreement(case, other, few), fault, other)
        for fault, other in candidates(reading, case.parts)
    ]
    tried.sort(key=lambda t: -t[0])
    final = [(_agreement(case, other, served), fault, other) for _, fault, other in tried[:4]]
    best, fault, other = max(final, key=lambda t: t[0])
    if best < agreement + 0.5 * (1 - agreement):
        if agreement >= _BROKEN:
            return agreement, None
        return agreement, Finding(
            "served_drafts",
            f"only {agreement:.0%} of the served drafts are what the files say, and no known fault "
            "explains them",
        )
    message = fault.symptom.format(**_shown(other))
    return agreement, Finding(
        fault.name,
        f"{agreement:.0%} of the served drafts are what the files say, {best:.0%} are what an "
        f"engine drafts that {message}",
    )


def _agreement(case: Case, reading: Reading, served: Sequence[Served]) -> float:
    same = count = 0
    for number in sorted({s.text for s in served}):
        mine = [s for s in served if s.text == number]
        logits = draft_logits(case.parts, reading, case.texts[number], [s.anchor for s in mine])
        for s, tokens in zip(mine, logits.argmax(-1), strict=True):
            k = len(s.drafts)
            taken = tokens[-k:] if reading.last_rows else tokens[:k]
            same += int((taken == np.asarray(s.drafts)).sum())
            count += k
    return same / max(count, 1)


def _shown(reading: Reading) -> dict[str, object]:
    shown = asdict(reading)
    for name in ("windows", "causal"):
        values = sorted({*shown[name]}, key=str)
        shown[name] = values[0] if len(values) == 1 else list(shown[name])
    if shown["windows"] is None:
        shown["windows"] = "all"
    shown["taps"] = list(shown["taps"])
    return shown


def changed(before: Reading, after: Reading) -> str:
    """A line that says in what two readings differ."""
    return ", ".join(f"{n}: {a} -> {b}" for n, (a, b) in differences(before, after).items())
