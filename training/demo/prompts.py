"""Prompt files for `kilotok train-drafter` on the demo target: the text that is installed here.

`python -m training.demo.prompts --out DIR` writes `train.jsonl` and `heldout.jsonl`; whole packages
are held out, the same ones as for the target (`corpus.is_held_out`).
"""

from __future__ import annotations

import argparse
import json
import os
import random
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from training.demo.corpus import PackageText, is_held_out, read_packages
from training.demo.data import encode_stream
from training.demo.licences import permitted_packages
from training.demo.preset import FULL
from training.demo.synthetic import math_document, tool_document

#: More of what is structured than the target saw: a drafter learns it soon, and it is served.
MIX = {"code": 0.65, "prose": 0.15, "math": 0.1, "tool": 0.1}
SIZES = (64, 256)


def main(argv: list[str] | None = None) -> None:
    """Write the two files; the same seed on the same machine gives the same prompts."""
    parser = argparse.ArgumentParser(prog="python -m training.demo.prompts", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json")
    parser.add_argument("--prompts", type=int, default=40_000, help="of training, in all")
    parser.add_argument("--held-out", type=int, default=64, help="per category")
    parser.add_argument("--megabytes", type=int, default=120, help="of code to read, about")
    parser.add_argument("--only", nargs="+", help="packages to read (default: all permitted)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    packages, _ = permitted_packages()
    if args.only:
        packages = [p for p in packages if p.name in set(args.only)]
    cap = args.megabytes * 1_000_000 // 8
    texts = read_packages(packages, os.cpu_count() or 1, cap_bytes=cap)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, split, count in (("train", False, args.prompts), ("heldout", True, None)):
        rng = random.Random(f"{args.seed}-{name}")
        here = [t for t in texts if is_held_out(t.name) == split]
        with (args.out / f"{name}.jsonl").open("w") as file:
            for kind, share in MIX.items():
                wanted = args.held_out if count is None else round(count * share)
                # Held out: as long as those that the checkpoint's model card was measured on.
                sizes = SIZES if count is not None else FULL.train.eval_prompt
                for tokens in _prompts(kind, here, tokenizer, wanted, sizes, rng):
                    file.write(json.dumps({"token_ids": tokens, "category": kind}) + "\n")


def _prompts(
    kind: str,
    texts: list[PackageText],
    tokenizer: Tokenizer,
    count: int,
    sizes: tuple[int, int],
    rng: random.Random,
) -> list[list[int]]:
    if kind in ("math", "tool"):
        maker = math_document if kind == "math" else tool_document
        return [tokenizer.encode(maker(rng)[0]).ids for _ in range(count)]
    documents = [d for text in texts for d in (text.code if kind == "code" else text.prose)]
    rng.shuffle(documents)
    stream = encode_stream(tokenizer, documents)
    if len(stream) <= sizes[1]:
        raise SystemExit(f"prompts: {len(stream)} tokens of {kind} found, too few")
    prompts = []
    for _ in range(count):
        size = rng.randint(*sizes)
        start = rng.randrange(len(stream) - size)
        prompts.append(np.asarray(stream[start : start + size]).tolist())
    return prompts


if __name__ == "__main__":
    main()
