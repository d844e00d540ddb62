"""Tokens per round, measured, against what a drafter that works gives."""

from collections import defaultdict

from kilotok.verify.result import Result, failed, not_run, passed
from kilotok.verify.subject import Subject

__all__ = ["check_tau"]

#: Law 8: rounds without one accepted draft after which a drafter is taken for broken. A drafter
#: that works passes this by far; how much it should accept beyond that only its training says.
_ROUNDS = 32


def check_tau(subject: Subject, name: str, min_tau: float | None) -> Result:
    """Compare tau with `min_tau`, or with nothing accepted at all.

    tau is tokens per round with drafts, the bonus token included.
    """
    drafter = subject.engine.info()["drafter"]
    if drafter is None:
        return not_run(name, "no drafter")
    block = drafter["block_size"]
    histograms: dict[str, list[int]] = defaultdict(list)
    warning = None
    params = subject.params(0.0, 0)
    for prompt in subject.prompts:
        receipt = subject.engine.generate(prompt.content, params, speculation=block).receipt
        for accepted, rounds in enumerate(receipt.accepted_histogram):
            histograms[prompt.category] += [accepted] * rounds
        warning = warning or receipt.warning
    every = [accepted for rounds in histograms.values() for accepted in rounds]
    if not every:
        return not_run(name, "no round had drafts")
    tau = 1 + sum(every) / len(every)
    parts = [f"{c} {1 + sum(r) / len(r):.2f}" for c, r in sorted(histograms.items()) if r]
    detail = f"{tau:.2f} over {len(every)} rounds, block {block} ({', '.join(parts)})"
    if warning is not None:
        return failed(name, f"{detail}: {warning}")
    if min_tau is not None:
        enough = tau >= min_tau
        return (passed if enough else failed)(name, f"{detail}; expected at least {min_tau:.2f}")
    if len(every) < _ROUNDS:
        return not_run(name, f"{detail}: too few rounds to judge, expected {_ROUNDS}")
    if sum(every) == 0:
        return failed(name, f"{detail}: not one draft was accepted")
    return passed(name, f"{detail}; expected above 1.00, the value of a broken drafter")
