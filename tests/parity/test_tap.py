"""Op tap: the residual after each named layer, the last one before the final norm."""

import numpy as np
import pytest
from parity.probe import close


@pytest.mark.parametrize("taps", [(0,), (3,), (1, 2), (0, 1, 2, 3)])
def test_tap(probe, prompt, taps):
    tokens = prompt(11)
    p = probe("flash", draft={"taps": taps}, tokens=tokens)
    _, got = p.engine(tokens)
    want = p.reference.forward(tokens).taps(taps)
    close(got.reshape(len(tokens), -1), want, f"taps {taps}")


def test_taps_do_not_depend_on_the_chunk(probe, prompt):
    tokens = prompt(30)
    p = probe("pro")
    whole = p.engine(tokens)[1]
    for chunk in (1, 7, 16):
        np.testing.assert_array_equal(p.engine(tokens, chunk=chunk)[1], whole)
