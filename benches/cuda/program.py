"""Stand-alone CUDA benchmarks: compile one, run it, and pass its JSON on."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
INCLUDE = HERE.parents[1] / "cuda" / "include"


def compile_program(name: str, directory: Path) -> Path:
    """Compile ``name.cu`` for Hopper with ``KILOTOK_NVCC`` or the nvcc on the path.

    Raises
    ------
    SystemExit
        There is no nvcc, or it fails.
    """
    nvcc = os.environ.get("KILOTOK_NVCC") or shutil.which("nvcc")
    if nvcc is None:
        sys.exit(f"{name}: no nvcc; set KILOTOK_NVCC, or KILOTOK_BENCH_PROGRAMS to compiled ones")
    program = directory / name
    target = ["-gencode=arch=compute_90a,code=sm_90a", "--expt-relaxed-constexpr"]
    command = [
        nvcc,
        "-O3",
        "-std=c++20",
        *target,
        "-I",
        INCLUDE,
        "-o",
        program,
        HERE / f"{name}.cu",
    ]
    done = subprocess.run(command, check=False)
    if done.returncode != 0:
        sys.exit(f"{name}: nvcc failed")
    return program


def run(name: str, *arguments: str) -> int:
    """Run the benchmark with its arguments; a table goes to stderr, JSON to stdout.

    ``KILOTOK_BENCH_PROGRAMS`` names a directory of compiled programs, for machines without nvcc.
    """
    ready = os.environ.get("KILOTOK_BENCH_PROGRAMS")
    if ready:
        return subprocess.run([Path(ready) / name, *arguments], check=False).returncode
    with tempfile.TemporaryDirectory() as directory:
        program = compile_program(name, Path(directory))
        return subprocess.run([program, *arguments], check=False).returncode
