"""Law 1: the bits of a row depend on its own tokens alone."""

import numpy as np
import pytest


@pytest.mark.parametrize("preset", ["flash", "pro", "v25", "v26"])
def test_rows_do_not_depend_on_their_company(probe, prompt, simd, preset):
    tokens = prompt(45)
    p = probe(preset)
    base = p.engine(tokens, simd=simd, threads=1)
    company = [prompt(n) for n in (45, 3, 30)]
    for options in (
        {"chunk": 1},
        {"chunk": 7},
        {"threads": 2},
        {"beside": company},
        {"beside": company[:1], "chunk": 3, "threads": 2},
    ):
        for got, want in zip(p.engine(tokens, simd=simd, **options), base, strict=True):
            np.testing.assert_array_equal(got, want, err_msg=str(options))
