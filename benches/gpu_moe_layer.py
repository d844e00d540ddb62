"""Measure one MXFP4 MoE layer in graph mode, against the bytes of the experts touched."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "cuda"))
import program

if __name__ == "__main__":
    sys.exit(program.run("moe_layer"))
