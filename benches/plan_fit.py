"""Make the fitted constants of ``kilotok plan`` again from the committed results.

Prints constants as they stand in ``crates/kilotok/src/plan/constants.rs`` and how far off they are
at every point. Needs numpy and an installed kilotok: the constants of attention between other ops
are what is missing in its predictions of whole passes.
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benches" / "results" / "nvidia-h200"
#: Microseconds of an op that does nothing, docs/persistent_kernel.md.
DISPATCH = {"persistent": 1.4, "graph": 2.3}
#: Blocks of an H200; shared memory for tiles of attention.
BLOCKS, SCRATCH = 132, 55_296

#: Megabytes of the layers of machine.json: linear ops, router, an expert.
LAYERS = {
    "mimo-pro/8": (21.491712 + 12.976128, 4.718592, 1.671168 + 0.835584),
    "gpt-oss-20b": (29.4912 + 23.59296, 0.18432, 8.8128 + 4.4064),
}
#: Parts of a MiMo layer in persistent mode, docs/persistent_kernel.md: rows, experts, us.
PARTS = {"linear": [(1, 8, 18)], "router": [(1, 8, 6)], "moe": [(1, 8, 20), (8, 57, 72)]}
#: Heads, kv heads, dimensions, chunks and window of the shapes of attention.json.
SHAPES = {
    "gpt-oss-20b full": (64, 8, 64, 64, 16, 0),
    "gpt-oss-20b window": (64, 8, 64, 64, 1, 128),
    "MiMo-V2.5-Pro rank of 8, full": (16, 1, 192, 128, 128, 0),
    "MiMo-V2.5-Pro rank of 8, window": (16, 1, 192, 128, 1, 128),
}


def result(name: str) -> Any:
    """What a benchmark found."""
    return json.loads((RESULTS / f"{name}.json").read_text())["result"]


def fit(features: Sequence[Sequence[float]], rest: Sequence[float], us: Sequence[float]) -> Any:
    """Least squares of relative errors: constants, and predicted over measured."""
    x, y, fixed = np.array(features, float), np.array(us, float), np.array(rest, float)
    constants = np.linalg.lstsq(x / y[:, None], 1 - fixed / y, rcond=None)[0]
    return constants, (x @ constants + fixed) / y


def layers() -> dict[str, float]:
    """Latency of streaming ops, per row of linear, of the router; share of the experts."""
    found = result("machine")
    rate = found["ceiling"] / 1e12
    points = []
    for entry in found["layers"]:
        for mode in DISPATCH:
            shape = (entry["shape"], entry["rows"], entry["experts"], mode)
            points.append((*shape, ("linear", "router", "moe"), entry[f"{mode}_us"]))
    for part, values in PARTS.items():
        for rows, experts, us in values:
            points.append(("mimo-pro/8", rows, experts, "persistent", (part,), us))
    features, rest, measured = [], [], []
    for shape, rows, experts, mode, parts, us in points:
        linear, router, expert = LAYERS[shape]
        has = {part: part in parts for part in PARTS}
        stream = 2 * has["linear"] + 2 * has["moe"]
        moe = experts * expert / rate * has["moe"]
        features.append([stream, 2 * (rows - 1) * has["linear"], has["router"], moe])
        dense = linear * has["linear"] + router * has["router"]
        rest.append((stream + has["router"]) * DISPATCH[mode] + dense / rate)
        measured.append(us)
    (stream, row, router, share), ratio = fit(features, rest, measured)
    show(ratio, [" ".join(map(str, point[:4])) + f" {'+'.join(point[4])}" for point in points])
    return {"STREAM": stream, "ROW": row, "ROUTER": router, "EXPERTS": 1 / share}


def attention() -> dict[str, float]:
    """Items and tiles of attention."""
    found = result("attention")["results"]
    features = []
    for entry in found:
        first = entry["context"] - 1
        features.append(walk(SHAPES[entry["shape"]], range(first, first + entry["rows"])))
    measured = [entry["attention_us"] for entry in found]
    constants, ratio = fit(features, [0.0] * len(found), measured)
    names = ("ITEM", "TILE", "TILE_KB", "PAIRS_KB")
    show(ratio, [f"{entry['shape']} {entry['context']} x {entry['rows']}" for entry in found])
    return dict(zip(names, constants, strict=True))


def walk(shape: tuple[int, ...], positions: Sequence[int]) -> list[float]:
    """What the block with the most items does: items, tiles, their kB, the same per pairs."""
    heads, kv_heads, qk_dim, v_dim, max_chunks, window = shape
    key_bytes, columns = up(qk_dim, 64) * 128, 128 if v_dim > 64 else 64
    if 16 * key_bytes + 64 * (key_bytes + 2 * columns) > SCRATCH:
        columns = 64
    tile = 64 * (key_bytes + 2 * columns)
    places_most = min((SCRATCH - tile) // (16 * key_bytes), 6 if columns == 64 else 3)
    runs: list[tuple[int, list[int]]] = []
    for position in positions:
        tiles = position // 64 + 1
        if window:
            tiles = min(tiles, (window + 8 + 62) // 64 + 1)
        tiles = 1 << 30 if max_chunks == 1 else up(tiles, max_chunks)
        if runs and runs[-1][0] == tiles:
            runs[-1][1].append(position)
        else:
            runs.append((tiles, [position]))
    sums, before = np.zeros(4), 0
    for tiles, rows in runs:
        low = max(0, rows[0] + 1 - window) // 64 if window else 0
        high = rows[-1] // 64
        places = up(len(rows) * (heads // kv_heads), 16)
        each = up(places, up(places, places_most))
        chunks = high // tiles - low // tiles + 1
        items = kv_heads * chunks * up(places, each) * up(v_dim, columns)
        mine = up(before + items, BLOCKS) - up(before, BLOCKS)
        before += items
        walked = mine * min(tiles, high - low + 1)
        kb = walked * tile / 1e3
        sums += [mine, walked, kb, kb * (each - 1)]
    return list(sums)


def up(a: int, b: int) -> int:
    """Divide and round up."""
    return -(-a // b)


def cold() -> dict[str, float]:
    """What attention takes longer between other ops: what whole passes take beyond the rest."""
    from kilotok import _core

    rows, layers, fitted = (1, 8), 70, {}
    times = _core.plan_bench("mimo-v2.5-pro-fp4-dflash", 8, rows, 1024, 8, [6.3], experts=(8, 51))
    constants = (ROOT / "crates/kilotok/src/plan/constants.rs").read_text()
    for mode, column in (("persistent", 0), ("graph", 1)):
        name = f"COLD_{mode.upper()}"
        held = re.search(rf'const {name}: Constant =\s*fitted\("[^"]*",\s*([0-9.]+)', constants)
        if held is None:
            sys.exit(f"plan_fit: no {name} in constants.rs")
        base = [one[mode] - layers * float(held[1]) / 1e3 for one in times["passes"]]
        measured = passes()
        us = [measured[i][column] for i in range(2)]
        (constant,), ratio = fit([[layers / 1e3]] * 2, base, us)
        show(ratio, [f"MiMo-V2.5-Pro, a rank of 8, {count} rows, {mode}" for count in rows])
        fitted[name] = constant
    return fitted


def passes() -> list[tuple[float, float]]:
    """Milliseconds of whole passes, persistent and graph, from docs/persistent_kernel.md."""
    page = (ROOT / "docs" / "persistent_kernel.md").read_text()
    row = r"^\| (?:1 row|8 rows), [^|]*GB \| ([0-9.]+) [^|]*\| ([0-9.]+) \|$"
    rows = re.findall(row, page, re.MULTILINE)
    return [(float(persistent), float(graph)) for persistent, graph in rows]


def show(ratio: Sequence[float], names: Sequence[str]) -> None:
    """Predicted over measured at every point."""
    for name, value in zip(names, ratio, strict=True):
        print(f"  {100 * (value - 1):+6.1f} %  {name}")


if __name__ == "__main__":
    for fitted in (layers(), attention(), cold()):
        print("  ".join(f"{name} {value:.4g}" for name, value in fitted.items()))
