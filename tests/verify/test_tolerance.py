"""The checks of a GPU's logits fail where they should; no GPU is needed to see that."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "gpu"))

from tolerance import LOGITS_LIMIT, check_choices, check_rows


@pytest.fixture
def logits():
    """Rows [40, 99] with a largest magnitude of 1 and a lead of 0.2."""
    rows = np.random.default_rng(5).uniform(-0.5, 0.5, (40, 99)).astype(np.float32)
    rows[np.arange(40), np.arange(40)] = 1.0
    rows[np.arange(40), np.arange(40) + 1] = 0.8
    return rows


def test_rounding_passes(logits):
    noise = np.random.default_rng(6).normal(0, 2e-3, logits.shape)
    check_rows(logits + noise, logits)
    check_choices(logits + noise, logits)


def test_another_choice_is_found_although_every_value_is_within_tolerance(logits):
    """The lead is beyond the tolerance of one value, and two values move by half of it each."""
    row = np.arange(3)
    logits[row, row + 1] = 1.0 - 1.5 * LOGITS_LIMIT
    got = logits.copy()
    got[row, row] -= 0.9 * LOGITS_LIMIT
    got[row, row + 1] += 0.9 * LOGITS_LIMIT
    check_rows(got, logits)
    with pytest.raises(AssertionError):
        check_choices(got, logits)


def test_choices_that_flip_at_near_ties_may_be_few(logits):
    row = np.arange(10)
    logits[row, row + 1] = 1.0 - 1e-3
    got = logits.copy()
    got[row, row] -= 2e-3
    check_rows(got, logits)
    with pytest.raises(AssertionError):
        check_choices(got, logits)
    got[2:] = logits[2:]
    check_choices(got, logits)


def test_rows_that_took_another_expert_may_be_few(logits):
    got = logits.copy()
    got[:8] += 0.1 * np.sign(got[:8])
    check_rows(got, logits)
    got[8] += 0.1
    with pytest.raises(AssertionError):
        check_rows(got, logits)
    got[0, 0] = np.nan
    with pytest.raises(AssertionError):
        check_choices(got, logits)
