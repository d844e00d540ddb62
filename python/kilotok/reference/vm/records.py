"""The structs and constants of ``cuda/include/kilotok/program.h`` as numpy dtypes.

An op record is 256 bytes: kind, flags, and the struct of the kind. A test compares every offset
with the header.
"""

from __future__ import annotations

from typing import Any

import numpy as np

#: One struct: an array without dimensions, whose fields have the types of the header.
Record = Any

ROWS = 8
PAIRS = 64
OP_BYTES = 256
MASK_TOKEN = 0xFFFFFFFF
NO_TOKEN = 0xFFFFFFFF

FLAG_LOGITS, FLAG_DRAFT, FLAG_DECIDES, FLAG_NEW_PASS, FLAG_RULES = 1, 2, 4, 8, 16
RULE_BIAS, RULE_PENALTIES, RULE_FILTERS = 1, 2, 4
IN_PROMPT = 0x80000000
BF16, FP8, MXFP4, F32 = range(4)
STORE_F32, STORE_RESIDUAL, STORE_SWIGLU = range(3)
SILU, CLAMPED_SWIGLU = range(2)
ROUTER_SIGMOID, ROUTER_SIGMOID_NORMALIZED, ROUTER_SOFTMAX = range(3)


def _struct(text: str) -> np.dtype:
    """Dtype of ``kind: name name ...; ...``; a name may have a count, ``kind`` may be a struct."""
    scalars = {"u32": np.dtype("<u4"), "u64": np.dtype("<u8"), "f32": np.dtype("<f4")}
    fields: list[tuple] = []
    for line in text.split(";"):
        kind, names = line.split(":")
        base = scalars.get(kind.strip()) or STRUCTS[kind.strip()]
        for name in names.split():
            name, _, count = name.partition("*")
            fields.append((name, base, (int(count),)) if count else (name, base))
    return np.dtype(fields)


STRUCTS: dict[str, np.dtype] = {}
for _name, _text in {
    "Matrix": "u64: steps expert_bytes; u32: format tiles steps_per_tile chunk_steps",
    "Norm": "u64: squares; u32: parts; f32: width eps; u32: reserved",
    "Residual": "u64: residual norm_weight x squares tap; u32: stride x_stride tap_stride fresh",
    "Activation": "u32: kind; f32: alpha limit; u32: reserved",
    "Embed": "u64: embedding mask; Residual: to; u32: width tiles",
    "Rope": "u64: frequencies rotations; u32: pairs; f32: magnitude",
    "Linear": "Matrix: weights; Norm: norm; Residual: to; Activation: activation; "
    "u64: x out bias; u32: x_stride out_stride out_width store",
    "Router": "u64: weights x logits; Norm: norm; u32: x_stride experts width format",
    "Routes": "u32: expert*64; f32: gate*64",
    "MoeUp": "Matrix: weights; Norm: norm; Activation: activation; "
    "u64: x hidden bias logits router_bias routes; "
    "u32: x_stride hidden_stride out_width experts top_k router; f32: router_scale; u32: reserved",
    "MoeDown": "Matrix: weights; Residual: to; u64: hidden bias routes; u32: hidden_stride top_k",
    "Attention": "u64: qkv out keys values page_table sinks rotations scratch; "
    "u32: qkv_stride out_stride heads kv_heads qk_dim v_dim positions max_pages window pairs; "
    "f32: scale value_scale; u32: max_chunks reserved",
    "DraftAttention": "u64: qkv out keys values block q_norm k_norm sinks rotations scratch; "
    "u32: qkv_stride out_stride heads kv_heads dim positions window causal pairs; "
    "f32: scale value_scale eps; u32: max_chunks reserved",
    "DraftContext": "u64: kv keys values k_norm rotations; "
    "u32: kv_stride kv_heads dim positions pairs; f32: value_scale eps; u32: reserved",
    "Choice": "f32: score; u32: token",
    "Adjust": "u64: logits counts biases peaks; u32: stride vocab",
    "Filter": "u64: scaled peaks kept; u32: stride vocab blocks reserved",
    "Choose": "u64: logits best kept; u32: stride vocab",
    "LayOut": "u64: best; u32: is_draft rows",
    "Accept": "u64: best counts; u32: stride reserved",
    "Row": "u32: slot position token run",
    "Pass": "u32: rows reserved*3; Row: row*8",
    "Run": "u64: seed; f32: temperature; "
    "u32: slot position anchor drafts remaining num_stops ended stops*14 rules top_k; "
    "f32: top_p min_p repetition presence frequency; u32: reserved",
    "Command": "u32: first_op num_ops rounds skip num_runs over written reserved; "
    "Pass: pass; Run: run*8",
    "Op": "u32: kind flags; u64: payload*31",
}.items():
    STRUCTS[_name] = _struct(_text)

#: Name and payload of every kind of op.
KINDS: dict[int, tuple[str, str]] = {
    1: ("embed", "Embed"),
    2: ("rope", "Rope"),
    3: ("linear", "Linear"),
    4: ("attention", "Attention"),
    5: ("router", "Router"),
    6: ("moe_up", "MoeUp"),
    7: ("moe_down", "MoeDown"),
    8: ("draft_attention", "DraftAttention"),
    9: ("draft_context", "DraftContext"),
    10: ("choose", "Choose"),
    11: ("lay_out", "LayOut"),
    12: ("accept", "Accept"),
    13: ("draft_choose", "Choose"),
    14: ("adjust", "Adjust"),
    15: ("filter", "Filter"),
}


def zeros(struct: str) -> Record:
    """One zeroed struct, as an array without dimensions."""
    return np.zeros((), STRUCTS[struct])


def name_of(record: Record) -> str:
    """Name of a record's op."""
    kind = int(record["kind"])
    return KINDS[kind][0] if kind in KINDS else f"kind {kind}"


def payload_of(record: Record) -> Record:
    """The struct of a record's kind; writing to it writes to the record.

    Raises
    ------
    ValueError
        The kind is unknown.
    """
    kind = int(record["kind"])
    if kind not in KINDS:
        raise ValueError(f"there is no op of kind {kind}")
    dtype = STRUCTS[KINDS[kind][1]]
    raw = record["payload"].view(np.uint8)[: dtype.itemsize]
    return raw.view(dtype).reshape(())
