"""Decoding of the demo checkpoint, kilotok without speculation against transformers eager.

transformers runs the float32 copy of the same weights (``kilotok.reference.flash_copy``), in
float32 and in bfloat16; the faster counts. Both sides continue the same prompt greedily on all
cores, in turn, and the float32 tokens must be equal. Prints JSON. Needs torch and transformers.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from kilotok import Engine, SamplingParams
from kilotok.loading import demo_checkpoint
from kilotok.reference.flash_copy import write_flash_copy

PROMPT = 'def parse_header(line):\n    """Parse one header line into a name and a value."""\n'


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    for module in ("torch", "transformers"):
        if importlib.util.find_spec(module) is None:
            print(f"cpu_transformers: skipped, {module} is not installed", file=sys.stderr)
            json.dump({"skipped": f"{module} is not installed"}, sys.stdout)
            return 0
    import torch
    import transformers

    torch.set_num_threads(os.cpu_count() or 1)
    rates: dict[str, list[float]] = {"kilotok": [], "float32": [], "bfloat16": []}
    with tempfile.TemporaryDirectory() as folder, Engine(progress=False) as engine:
        write_flash_copy(demo_checkpoint(), Path(folder))
        models = {
            name: transformers.MiMoV2FlashForCausalLM.from_pretrained(
                folder, dtype=getattr(torch, name), attn_implementation="eager"
            )
            for name in ("float32", "bfloat16")
        }
        params = SamplingParams(max_tokens=args.tokens, ignore_eos=True)
        prompt = engine.generate(PROMPT, SamplingParams(max_tokens=1)).prompt_token_ids
        for _ in range(args.repeats):
            ours = engine.generate(prompt, params, speculation="off")
            rates["kilotok"].append(ours.receipt.tokens_per_s)
            for name, model in models.items():
                ids = torch.tensor([prompt])
                options = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
                first = time.perf_counter()
                model.generate(ids, max_new_tokens=1, **options)
                start = time.perf_counter()
                out = model.generate(ids, max_new_tokens=args.tokens, **options)
                # Without the prefill, which the run of one token stands for.
                seconds = time.perf_counter() - start - (start - first)
                rates[name].append((args.tokens - 1) / seconds)
                theirs = out[0, len(prompt) :].tolist()
                if name == "float32" and theirs != list(ours.token_ids):
                    raise SystemExit("cpu_transformers: the tokens differ")
    best = {name: max(values) for name, values in rates.items()}
    json.dump(
        {
            "benchmark": "greedy decode, same float32 tokens on both sides, best of the repeats",
            "tokens": args.tokens,
            "load_average": os.getloadavg()[0],
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokens_per_s": best,
            "kilotok_over_fastest_transformers": best["kilotok"]
            / max(best["float32"], best["bfloat16"]),
        },
        sys.stdout,
        indent=2,
    )
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
