"""Write tests/golden/demo.json: what transformers says about the demo checkpoint.

Needs torch and transformers. The model is ``MiMoV2FlashForCausalLM`` in float32 on the float32 copy
of the demo's weights (``kilotok.reference.flash_copy``); each case is a prompt, 64 greedy tokens
and the smallest gap between the two largest logits along them.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from tiny._reference import reference  # noqa: E402, F401  (finds the reference without a build)

from kilotok.reference.flash_copy import write_flash_copy  # noqa: E402

DEMO = ROOT / "python/kilotok/demo/checkpoint"
PROMPTS = [
    'def parse_header(line):\n    """Parse one header line into a name and a value."""\n',
    "import argparse\nimport sys\n\n\ndef main():\n",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n",
    "The module provides functions for reading and writing files. ",
]
TOKENS = 64


def main() -> None:
    """Generate and write."""
    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        write_flash_copy(DEMO, Path(folder))
        model = transformers.MiMoV2FlashForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )
        for prompt in PROMPTS:
            ids = tokenizer.encode(prompt, add_special_tokens=False).ids
            out = model.generate(
                torch.tensor([ids]),
                max_new_tokens=TOKENS,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=None,
                output_logits=True,
                return_dict_in_generate=True,
            )
            gaps = [float(-step[0].topk(2).values.diff()) for step in out.logits]
            cases.append(
                {
                    "prompt": ids,
                    "tokens": out.sequences[0, len(ids) :].tolist(),
                    "smallest_gap": round(min(gaps), 6),
                }
            )
    document = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cases": cases,
    }
    (ROOT / "tests/golden/demo.json").write_text(json.dumps(document) + "\n")


if __name__ == "__main__":
    main()
