"""The bank: what goes wrong with drafters, each as readings that undo or reproduce it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from kilotok.training.doctor.forward import Parts
from kilotok.training.doctor.reading import Reading

__all__ = ["BANK", "Fault", "candidates"]

Readings = Iterator[Reading]


@dataclass(frozen=True)
class Fault:
    """One way to be wrong.

    Attributes
    ----------
    name : what reports call it.
    advice : what to change, where another reading is accepted more.
    symptom : what an engine does wrong, where the reading explains its drafts.
    readings : other readings, near a given one.
    """

    name: str
    advice: str
    symptom: str
    readings: Callable[[Reading, Parts], Readings]


def _taps(r: Reading, parts: Parts) -> Readings:
    for step in (1, -1):
        shifted = tuple(tap + step for tap in r.taps)
        if parts.tappable.issuperset(shifted):
            yield replace(r, taps=shifted)
    for i, tap in enumerate(r.taps):
        for step in (1, -1):
            moved = (*r.taps[:i], tap + step, *r.taps[i + 1 :])
            ascends = all(a < b for a, b in pairwise(moved))
            if tap + step in parts.tappable and ascends:
                yield replace(r, taps=moved)


def _rotary(r: Reading, parts: Parts) -> Readings:
    dim = parts.config.head_dim
    for share in (1.0, 0.75, 0.5, 0.334, 0.25):
        rotary = int(dim * share) // 2 * 2
        if rotary and rotary != r.rotary_dim:
            yield replace(r, rotary_dim=rotary)


def _theta(r: Reading, _: Parts) -> Readings:
    for theta in (1e4, 1e5, 1.5e5, 5e5, 1e6, 5e6, 1e7):
        if theta != r.theta:
            yield replace(r, theta=theta)


def _window(r: Reading, parts: Parts) -> Readings:
    block = parts.config.block_size
    for window in (None, 128, 512, 1024, 2048, 4096):
        if window is None or window >= block:
            changed = (window,) * len(r.windows)
            if changed != r.windows:
                yield replace(r, windows=changed)


def _causal(r: Reading, _: Parts) -> Readings:
    for causal in (False, True):
        if r.causal != (causal,) * len(r.causal):
            yield replace(r, causal=(causal,) * len(r.causal))


def _values(r: Reading, _: Parts) -> Readings:
    for scale in (1.0, 0.612, 0.707):
        if scale != r.value_scale:
            yield replace(r, value_scale=scale)


def _sinks(r: Reading, parts: Parts) -> Readings:
    if "sinks" in parts.layers[0]:
        for sinks in ("stored", "none", "rolled"):
            if sinks != r.sinks:
                yield replace(r, sinks=sinks)


def _embed_scale(r: Reading, parts: Parts) -> Readings:
    yield replace(r, embed_scale=float(parts.config.hidden_size) ** 0.5)


def _one(**change: object) -> Callable[[Reading, Parts], Readings]:
    def readings(r: Reading, _: Parts) -> Readings:
        changed = replace(r, **change)  # type: ignore[arg-type]
        if changed != r:
            yield changed

    return readings


def _each(field: str, *values: object) -> Callable[[Reading, Parts], Readings]:
    def readings(r: Reading, _: Parts) -> Readings:
        for value in values:
            if getattr(r, field) != value:
                yield replace(r, **{field: value})  # type: ignore[arg-type]

    return readings


def _positions(r: Reading, parts: Parts) -> Readings:
    if parts.max_positions is not None:
        yield replace(r, max_position=parts.max_positions)


BANK = (
    Fault(
        "taps",
        "dflash_config.target_layer_ids: use {taps} (0-based, the residual AFTER that layer)",
        "captures taps at layers {taps}: off by one (after layer i is before layer i + 1)",
        _taps,
    ),
    Fault(
        "final_tap_norm",
        "the last layer's tap was trained after the final norm; the engine taps before it",
        "takes the last layer's tap after the target's final norm instead of before it",
        _one(final_tap_normed=True),
    ),
    Fault(
        "rotary_fraction",
        "partial_rotary_factor: rotate the first {rotary_dim} dimensions of a head",
        "rotates {rotary_dim} dimensions of a head",
        _rotary,
    ),
    Fault("theta", "rope_theta: use {theta:g}", "uses the rotary base {theta:g}", _theta),
    Fault(
        "rotary_pairs",
        "rotary pairs are neighbours (2 i, 2 i + 1), which no supported config says",
        "rotates neighbours (2 i, 2 i + 1) instead of halves",
        _one(interleaved_rope=True),
    ),
    Fault(
        "window",
        "dflash_config.swa_window_size: use {windows} keys",
        "sees {windows} keys",
        _window,
    ),
    Fault(
        "causality",
        "is_causal: set it so that layers are causal = {causal}",
        "lets block rows see each other as if causal = {causal}",
        _causal,
    ),
    Fault(
        "value_scale",
        "dflash_config.attention_value_scale: use {value_scale:g}",
        "scales values by {value_scale:g}",
        _values,
    ),
    Fault("sinks", "attention sinks: use them as: {sinks}", "uses sinks as: {sinks}", _sinks),
    Fault(
        "mask_embedding",
        "masked rows: another embedding ({mask_row}) is better than the stored one",
        "feeds masked rows with the {mask_row} row instead of the sidecar's vector",
        _each("mask_row", "zero", "mean"),
    ),
    Fault(
        "head",
        "the drafter was trained against the target's {head}",
        "computes drafts with head '{head}' instead of the target's lm_head",
        _each("head", "embedding", "empty"),
    ),
    Fault(
        "embedding_scale",
        "the anchor's embedding has to be scaled by {embed_scale:.1f}",
        "scales the anchor's embedding by {embed_scale:.1f}",
        _embed_scale,
    ),
    Fault(
        "context_positions",
        "context rows were trained at positions shifted by {context_shift:+d}",
        "stores context rows at positions shifted by {context_shift:+d}",
        _each("context_shift", 1, -1),
    ),
    Fault(
        "context_norm",
        "context rows were trained through the layers' input norm",
        "passes context rows through the layers' input norm",
        _one(context_norm=True),
    ),
    Fault(
        "anchor_leak",
        "trained with the anchor's own feature visible, which no engine has: train it again",
        "lets blocks see a feature at the anchor's own position",
        _one(includes_anchor=True),
    ),
    Fault(
        "fused_kv",
        "k_proj and v_proj are swapped in the file",
        "swaps keys and values of a fused projection",
        _one(swapped_kv=True),
    ),
    Fault(
        "kv_layout",
        "rows of k_proj and v_proj are stored [head_dim, kv_heads]",
        "reads keys and values through another cache layout (head and dimension exchanged)",
        _one(mixed_heads=True),
    ),
    Fault(
        "label_shift",
        "slot k was trained for the token at k + 1 (sample_from_anchor): another drafter family",
        "takes slot k for the token at k + 1",
        _one(slot_shift=1),
    ),
    Fault(
        "overhang",
        "trained with unmasked padding keys (tiles of {overhang})",
        "does not mask keys beyond the sequence, up to a tile of {overhang}",
        _each("overhang", 16, 32, 64, 128),
    ),
    Fault(
        "prefix",
        "trained without the first {context_lost} context rows",
        "has no keys for the first {context_lost} rows: a cached prefix without taps",
        _each("context_lost", 16, 32, 48, 64, 128, 256),
    ),
    Fault(
        "last_rows",
        "of a shortened block, the last rows were trained",
        "takes the last rows of the block when it drafts fewer, instead of the first",
        _one(last_rows=True),
    ),
    Fault(
        "position_table",
        "positions end at {max_position}",
        "looks angles up in a table of {max_position} positions and runs past its end",
        _positions,
    ),
)


def candidates(reading: Reading, parts: Parts) -> list[tuple[Fault, Reading]]:
    """Every other reading of the bank, one step away."""
    return [(fault, other) for fault in BANK for other in fault.readings(reading, parts)]
