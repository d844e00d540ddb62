"""The training code is a plain folder at the repository root, not part of the wheel."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
