"""Measure published models with random weights in both modes, large ones as one rank's share."""

import json
import sys

from kilotok.cli import bench_preset
from kilotok.errors import Error, OutOfMemoryError

#: Presets and how many GPUs share them.
PRESETS = (("mimo-v2.5-pro-fp4-dflash", 8), ("gpt-oss-20b", 1))


def main() -> int:
    """Measure everything; tables go to stderr, JSON to stdout."""
    results = []
    for preset, ranks in PRESETS:
        try:
            result = bench_preset.measure(preset, rank_of=ranks, rows=(1, 8), context=1024)
        except OutOfMemoryError as error:
            results.append({"preset": preset, "rank_of": ranks, "does_not_fit": str(error)})
            print(f"{preset}: {error}", file=sys.stderr)
            continue
        except Error as error:
            results.append({"preset": preset, "rank_of": ranks, "failed": str(error)})
            print(f"{preset}: {error}", file=sys.stderr)
            continue
        results.append(result)
        print(bench_preset.render(result), file=sys.stderr)
    print(json.dumps({"results": results}))
    return int(any("failed" in result for result in results))


if __name__ == "__main__":
    sys.exit(main())
