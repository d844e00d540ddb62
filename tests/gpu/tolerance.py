"""What logits of a GPU may differ by from the CPU's."""

import numpy as np

#: Activations between ops are bfloat16 on the GPU (8 bits) and 32-bit floats on the CPU: what some
#: dozen roundings in a row do to a row of logits, relative to the largest one. Where two experts
#: are as good as each other the rounding chooses, and a row may be off by what an expert adds; that
#: happens to few rows.
LOGITS_LIMIT = 3e-2
OTHER_EXPERT = 0.25
REROUTED = 0.2
#: Rows whose best token is the CPU's, near ties included.
SAME_CHOICE = 0.95


def row_errors(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """Largest error of each row, relative to the row's largest magnitude."""
    assert got.shape == want.shape
    assert np.isfinite(got).all()
    return np.abs(got - want).max(-1) / np.abs(want).max(-1)


def check_rows(got: np.ndarray, want: np.ndarray) -> None:
    errors = row_errors(got, want)
    assert errors.max() <= OTHER_EXPERT
    assert (errors > LOGITS_LIMIT).mean() <= REROUTED, np.sort(errors)[-10:]


def check_choices(got: np.ndarray, want: np.ndarray) -> None:
    """Check that the best tokens are the CPU's.

    Where the CPU's own lead is beyond the tolerance of a row, whatever was computed for it here,
    the best token has to be the same one, but in rows that took another expert. Elsewhere it is
    nearly always.
    """
    best = np.sort(want, axis=-1)
    clear = best[:, -1] - best[:, -2] > LOGITS_LIMIT * np.abs(want).max(-1)
    rerouted = row_errors(got, want) > LOGITS_LIMIT
    same = got.argmax(-1) == want.argmax(-1)
    assert clear.mean() > 0.5
    assert same[clear & ~rerouted].all()
    assert same.mean() >= SAME_CHOICE
