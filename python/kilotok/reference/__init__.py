"""The readable oracle: MiMo-V2 targets and DFlash drafters in plain numpy.

Each op of an engine Program is one function in `ops` under the same name, the number formats are in
`formats`, and `Mimo`, `Drafter` and `speculate` run whole models from a directory. Nothing here is
fast; it exists to be read and to be compared with.
"""

from kilotok.reference import formats, ops
from kilotok.reference.checkpoint import Checkpoint
from kilotok.reference.dflash import Drafter, Transcript, speculate
from kilotok.reference.errors import FormatError
from kilotok.reference.mimo import Forward, Mimo

__all__ = [
    "Checkpoint",
    "Drafter",
    "FormatError",
    "Forward",
    "Mimo",
    "Transcript",
    "formats",
    "ops",
    "speculate",
]
