"""Complete a prompt with the demo checkpoint, or with any checkpoint directory.

python examples/python/generate.py [MODEL]
"""

import sys

from kilotok import Engine, SamplingParams

model = sys.argv[1] if len(sys.argv) > 1 else None
with Engine(model) as engine:
    out = engine.generate("def gcd(a, b):\n", SamplingParams(max_tokens=64))
    print(out.text)
    print(out.receipt)

    for piece in engine.stream("import argparse\n", SamplingParams(max_tokens=64)):
        print(piece.text, end="", flush=True)
    print()
