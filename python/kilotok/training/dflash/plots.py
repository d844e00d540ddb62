"""PNG plots of a run, where matplotlib is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["write_plots"]


def write_plots(folder: Path, evaluation: dict[str, Any] | None) -> list[Path]:
    """Write `loss.png`, `tau.png` and `acceptance.png`; returns what was written.

    Loss and tau per position come from `history.jsonl`; the histogram from `evaluation`, if given.
    Without matplotlib nothing is written.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        return []
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    lines = (folder / "history.jsonl").read_text().splitlines()
    history = [json.loads(line) for line in lines]
    steps = [row["step"] for row in history]
    written = []

    def finish(name: str, xlabel: str, ylabel: str) -> None:
        plt.xlabel(xlabel)
        plt.ylabel(ylabel)
        plt.grid(alpha=0.3)
        plt.tight_layout()
        plt.savefig(folder / name, dpi=110)
        plt.close()
        written.append(folder / name)

    plt.figure(figsize=(7, 4))
    plt.plot(steps, [row["loss"] for row in history])
    plt.yscale("log")
    finish("loss.png", "step", "loss, nats (weighted mean)")

    plt.figure(figsize=(7, 4))
    for k in range(len(history[0]["accepted_at_least"])):
        plt.plot(steps, [row["accepted_at_least"][k] for row in history], label=f"{k + 1}")
    plt.legend(title="first drafts", fontsize=8)
    finish("tau.png", "step", "share of blocks with the first k drafts right")

    if evaluation is not None:
        plt.figure(figsize=(7, 4))
        rows = {"all": evaluation["all"], **evaluation["categories"]}
        width = 0.8 / len(rows)
        for i, (name, row) in enumerate(rows.items()):
            counts = row["served"]["histogram"]
            total = max(sum(counts), 1)
            at = [k + (i - (len(rows) - 1) / 2) * width for k in range(len(counts))]
            plt.bar(at, [n / total for n in counts], width, label=name)
        plt.legend(fontsize=8)
        finish("acceptance.png", "accepted drafts of a round (served)", "share of rounds")
    return written
