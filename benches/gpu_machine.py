"""Measure stacks of layers without attention in both modes, after checking every streamed op."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "cuda"))
import program

if __name__ == "__main__":
    sys.exit(program.run("machine", "bench"))
