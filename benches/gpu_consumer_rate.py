"""Measure how fast the MXFP4 inner loop eats weights, against the read rate of the card."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "cuda"))
import program

if __name__ == "__main__":
    sys.exit(program.run("consumer_rate"))
