"""The checks of a certificate, in the order in which they run."""

from collections.abc import Callable, Iterator, Sequence

from kilotok.errors import Error, NoGpuError, OutOfMemoryError
from kilotok.options import Speculation
from kilotok.verify.logits import check_chunks, check_gpu_against_cpu, check_modes
from kilotok.verify.result import Result, failed, not_run, passed
from kilotok.verify.subject import Subject
from kilotok.verify.tau import check_tau

__all__ = ["run_checks"]

_BLOCKS: tuple[Speculation, ...] = (2, 4, 8, "auto")
_SEEDS = (1, 2)
_TEMPERATURE = 0.8


def run_checks(
    subject: Subject, *, gpu: bool, why_no_gpu: str = "", min_tau: float | None = None
) -> Iterator[Result]:
    """Run all checks, one result each, as they end.

    Parameters
    ----------
    subject : Subject
    gpu : bool
        Whether the engine runs on a GPU.
    why_no_gpu : str
        Why it does not.
    min_tau : float, optional
        Tokens per round below which the drafter counts as broken.
    """
    no_gpu = f"the engine runs on the CPU ({why_no_gpu})" if why_no_gpu else "no GPU engine"
    checks: list[tuple[str, Callable[[str], Result]]] = [
        ("speculation on == off, greedy", lambda n: _speculation(subject, n, (0,), 0.0)),
        (
            "speculation on == off, sampled",
            lambda n: _speculation(subject, n, _SEEDS, _TEMPERATURE),
        ),
        ("batched == alone", lambda n: _batched(subject, n)),
        (
            "chunked prefill == one go, bits of logits",
            lambda n: check_chunks(subject, n, "cuda" if gpu else "cpu"),
        ),
        (
            "graph == persistent, bits of logits",
            lambda n: check_modes(subject, n) if gpu else not_run(n, no_gpu),
        ),
        (
            "GPU against CPU, within tolerance",
            lambda n: check_gpu_against_cpu(subject, n) if gpu else not_run(n, no_gpu),
        ),
        ("tau of the drafter", lambda n: check_tau(subject, n, min_tau)),
    ]
    for name, check in checks:
        yield _guarded(name, check)


def _guarded(name: str, check: Callable[[str], Result]) -> Result:
    try:
        return check(name)
    except (NoGpuError, OutOfMemoryError) as error:
        return not_run(name, str(error))
    except Error as error:
        return failed(name, f"{type(error).__name__}: {error}")


def _blocks(subject: Subject) -> list[Speculation]:
    drafter = subject.engine.info()["drafter"]
    if drafter is None:
        return []
    blocks = (8, "auto") if subject.quick else _BLOCKS
    return [b for b in blocks if b == "auto" or int(b) <= drafter["block_size"]]


def _alone(
    subject: Subject, seed: int, temperature: float, speculation: Speculation
) -> list[list[int]]:
    params = subject.params(temperature, seed)
    return [
        list(subject.engine.generate(p.content, params, speculation=speculation).token_ids)
        for p in subject.prompts
    ]


def _together(
    subject: Subject, seed: int, temperature: float, speculation: Speculation
) -> list[list[int]]:
    outputs = subject.engine.generate(
        [p.content for p in subject.prompts],
        subject.params(temperature, seed),
        speculation=speculation,
    )
    return [list(output.token_ids) for output in outputs]


def _difference(got: Sequence[list[int]], want: Sequence[list[int]]) -> str | None:
    """Where two lists of token sequences first part."""
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        if a != b:
            at = next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
            if at is None:
                return f"prompt {i}: {len(a)} tokens, expected {len(b)}"
            return f"prompt {i}, token {at}: {a[at]}, expected {b[at]}"
    return None


def _speculation(subject: Subject, name: str, seeds: Sequence[int], temperature: float) -> Result:
    blocks = _blocks(subject)
    if not blocks:
        return not_run(name, "no drafter")
    count = 0
    for seed in seeds:
        want = _alone(subject, seed, temperature, "off")
        for block in blocks:
            difference = _difference(_alone(subject, seed, temperature, block), want)
            if difference:
                return failed(name, f"block {block}, seed {seed}, {difference}")
            count += sum(map(len, want))
    shown = ", ".join(map(str, blocks))
    return passed(name, f"{count} tokens; blocks {shown}; {len(subject.prompts)} prompts")


def _batched(subject: Subject, name: str) -> Result:
    if len(subject.prompts) < 2:
        return not_run(name, "needs two prompts")
    settings: list[Speculation] = ["off", *_blocks(subject)[-1:]]
    count = 0
    for temperature in (0.0, _TEMPERATURE):
        for speculation in settings:
            want = _alone(subject, 3, temperature, speculation)
            difference = _difference(_together(subject, 3, temperature, speculation), want)
            if difference:
                how = f"speculation {speculation}, temperature {temperature}"
                return failed(name, f"{how}, {difference}")
            count += sum(map(len, want))
    return passed(name, f"{count} tokens, {len(subject.prompts)} prompts at once")
