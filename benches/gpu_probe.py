"""Measure the probe kernel and print JSON: what a vector kernel reaches on this GPU."""

import json
import sys

from kilotok import _core


def main() -> int:
    """Print the best of three runs."""
    runs = [_core.run_gpu_probe(0) for _ in range(3)]
    best = min(runs, key=lambda run: run["kernel_us"])
    json.dump({"benchmark": "probe", "runs": len(runs), "best": best}, sys.stdout, indent=2)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
