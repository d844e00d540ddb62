"""Measure the op attention against the bytes of the cache that it reads."""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/device"))

import test_attention
from machine import Gpu

from kilotok import _core

#: heads, kv_heads, qk, v and options.
SHAPES = {
    "gpt-oss-20b full": (64, 8, 64, 64, {"pairs": 32, "sinks": True, "chunks": 16}),
    "gpt-oss-20b window": (64, 8, 64, 64, {"pairs": 32, "sinks": True, "window": 128}),
    "MiMo-V2.5-Pro rank of 8, full": (16, 1, 192, 128, {"pairs": 32, "chunks": 128}),
    "MiMo-V2.5-Pro rank of 8, window": (16, 1, 192, 128, {"pairs": 32, "window": 128}),
}
REPEATS = 200
test_attention.SLOTS, test_attention.PAGE = 1, 64


def layer_of(rng: np.random.Generator, name: str, context: int) -> test_attention.Layer:
    """A layer whose pages repeat a few random ones, so that long contexts are made quickly."""
    *sizes, options = SHAPES[name]
    layer = test_attention.Layer(rng, *sizes, **options, length=512)
    if layer.table is not None:
        pages = -(-(context + 8) // test_attention.PAGE)
        layer.table = rng.permutation(pages).astype(np.uint32)[None]
        layer.keys = np.resize(layer.keys, (pages, *layer.keys.shape[1:]))
        layer.values = np.resize(layer.values, (pages, *layer.values.shape[1:]))
    return layer


def main() -> int:
    """Measure everything; a table goes to stderr, JSON to stdout."""
    blocks = _core.gpu_report()["devices"][0]["num_sms"]
    rng, results = np.random.default_rng(1), []
    for name, (*_, options) in SHAPES.items():
        for context in (1024, 8192, 131_072):
            if options.get("window") and context > 1024:
                continue
            layer = layer_of(rng, name, context)
            visible = min(context, options.get("window", context))
            mega = visible * layer.kv_heads * (layer.qk + layer.v) * 2e-6
            for count in (1, 8):
                machine = Gpu(blocks)
                machine.repeats = REPEATS
                rows = [(0, context - 1 + i) for i in range(count)]
                layer.run(machine, rows, layer.inputs(rng, count))
                attend = machine.microseconds
                results.append(
                    {
                        "shape": name,
                        "context": context,
                        "rows": count,
                        "attention_us": attend,
                        "tbytes_per_s": mega / attend,
                    }
                )
                print(
                    f"{name:32} context {context:6} rows {count}: {attend:7.2f} us, "
                    f"{mega:7.2f} MB, {mega / attend:.2f} TB/s",
                    file=sys.stderr,
                )
    print(json.dumps({"results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
