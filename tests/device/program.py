"""The structs and constants of cuda/include/kilotok/program.h, read from the header itself."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
HEADER = ROOT / "cuda/include/kilotok/program.h"
SCALARS = {"uint32_t": np.uint32, "uint64_t": np.uint64, "float": np.float32}


def _parse(text: str) -> tuple[dict[str, int], dict[str, np.dtype]]:
    text = re.sub(r"//.*", "", text)
    constants = {
        name: int(value.rstrip("u"), 0)
        for name, value in re.findall(r"#define (KILOTOK_\w+) (\w+)$", text, re.M)
    }
    for body in re.findall(r"^enum \{(.*?)\}", text, re.M | re.S):
        constants |= {n: int(v, 0) for n, v in re.findall(r"(KILOTOK_\w+)\s*=\s*(\w+)", body)}
    structs: dict[str, np.dtype] = {}
    for name, body in re.findall(r"typedef struct (\w+) \{(.*?)\} \w+;", text, re.S):
        fields = []
        for kind, names in re.findall(r"(\w+) ([^;]+);", body):
            base = SCALARS.get(kind) or structs[kind]
            for field in names.split(","):
                one, size = re.fullmatch(r"\s*(\w+)(?:\[(\w+)\])?\s*", field).groups()
                count = () if size is None else (constants.get(size) or int(size),)
                fields.append((one, base, count))
        structs[name] = np.dtype(fields)
    return constants, structs


CONSTANTS, STRUCTS = _parse(HEADER.read_text())
ROWS = CONSTANTS["KILOTOK_ROWS"]
COUNTERS = CONSTANTS["KILOTOK_COUNTERS"]
MASK_TOKEN = CONSTANTS["KILOTOK_MASK_TOKEN"]
#: Struct of each op, by its name in the header.
PAYLOADS = {
    "ROPE": "KilotokRope",
    "ATTENTION": "KilotokAttention",
    "DRAFT_ATTENTION": "KilotokDraftAttention",
    "DRAFT_CONTEXT": "KilotokDraftContext",
    "ADJUST": "KilotokAdjust",
    "FILTER": "KilotokFilter",
    "CHOOSE": "KilotokChoose",
    "DRAFT_CHOOSE": "KilotokChoose",
    "LAY_OUT": "KilotokLayOut",
    "ACCEPT": "KilotokAccept",
}


def zeros(struct: str) -> np.ndarray:
    """One zeroed struct, as an array without dimensions."""
    return np.zeros((), STRUCTS[struct])


def partial_results(heads: int, v_dim: int, max_chunks: int) -> np.ndarray | None:
    """Scratch memory of an attention op as it may be before it: counters of 0, then anything."""
    if max_chunks == 1:
        return None
    each = v_dim + 2 * -(-v_dim // 64)
    scratch = np.full(COUNTERS + ROWS * heads * (max_chunks + 1) * each, np.nan, np.float32)
    scratch[:COUNTERS] = 0
    return scratch


def command_of(rows, **fields) -> np.ndarray:
    """A command without runs whose pass has ``rows``, given as (slot, position)."""
    command = zeros("KilotokCommand")
    command["pass"]["rows"] = len(rows)
    for i, (slot, position) in enumerate(rows):
        command["pass"]["row"][i] = (slot, position, 0, 0)
    for name, value in fields.items():
        command[name] = value
    return command
