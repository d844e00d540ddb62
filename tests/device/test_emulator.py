"""The header that the tests read is the header that the compiler reads."""

from __future__ import annotations

import os
import subprocess

import numpy as np
from program import HEADER, STRUCTS


def test_structs_lie_as_the_compiler_lays_them_out(tmp_path):
    lines = ['#include <cstddef>\n#include <cstdio>\n#include "kilotok/program.h"\nint main() {']
    want = []
    for name, dtype in STRUCTS.items():
        for field in dtype.names:
            lines.append(f'std::printf("%zu\\n", offsetof({name}, {field}));')
            want.append(dtype.fields[field][1])
        lines.append(f'std::printf("%zu\\n", sizeof({name}));')
        want.append(dtype.itemsize)
    source, program = tmp_path / "layout.cpp", tmp_path / "layout"
    source.write_text("\n".join([*lines, "}"]))
    compiler = os.environ.get("CXX", "g++")
    include = str(HEADER.parents[1])
    subprocess.run([compiler, "-w", "-I", include, "-o", program, source], check=True)
    got = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    assert np.array_equal([int(x) for x in got.split()], want)
