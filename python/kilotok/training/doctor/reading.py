"""A reading: every convention by which drafter weights become drafts."""

from __future__ import annotations

from dataclasses import dataclass, fields

from kilotok.reference.config import DraftConfig

__all__ = ["Reading", "differences", "reading_of"]


@dataclass(frozen=True)
class Reading:
    """Conventions; the fields without defaults come from `config.json`.

    Attributes
    ----------
    taps : 0-based target layers; -1 is the embedding's output.
    windows, causal : per layer; a window counts the query's own key, None sees all.
    sinks : ``stored``, ``none``, or ``rolled``: half of the heads got the other half's.
    interleaved_rope : pairs are (2 i, 2 i + 1) instead of (i, i + dim / 2).
    mask_row : ``stored`` (sidecar, else the target's row), ``zero``, or ``mean`` of the table.
    head : ``lm_head``, ``embedding``, or ``empty`` (an own head that was never loaded).
    embed_scale : factor on the anchor's embedding.
    context_shift : added to the positions of context rows.
    context_lost : context rows at the start that have no keys (a cached prefix without taps).
    context_norm : context rows pass the layer's input norm.
    includes_anchor : the context holds the anchor's own feature.
    final_tap_normed : the last layer's tap is taken after the final norm.
    swapped_kv : keys from v_proj, values from k_proj.
    mixed_heads : rows of k_proj and v_proj are [head_dim, kv_heads], not [kv_heads, head_dim].
    overhang : keys are padded with zeros to a multiple of so many, and the padding is seen.
    slot_shift : slot k is taken for the token at k + 1 (labels as in other drafter families).
    last_rows : of a shortened block, the last rows are taken instead of the first.
    max_position : a table of angles ends there; later positions get its last entry.
    """

    taps: tuple[int, ...]
    rotary_dim: int
    theta: float
    windows: tuple[int | None, ...]
    causal: tuple[bool, ...]
    value_scale: float
    sinks: str = "stored"
    interleaved_rope: bool = False
    mask_row: str = "stored"
    head: str = "lm_head"
    embed_scale: float = 1.0
    context_shift: int = 0
    context_lost: int = 0
    context_norm: bool = False
    includes_anchor: bool = False
    final_tap_normed: bool = False
    swapped_kv: bool = False
    mixed_heads: bool = False
    overhang: int = 1
    slot_shift: int = 0
    last_rows: bool = False
    max_position: int | None = None


def reading_of(config: DraftConfig) -> Reading:
    """The reading that a drafter's `config.json` asks for."""
    return Reading(
        taps=config.target_layer_ids,
        rotary_dim=config.rotary_dim,
        theta=config.theta,
        windows=config.windows,
        causal=config.causal,
        value_scale=config.value_scale,
        sinks="stored" if config.sinks else "none",
    )


def differences(a: Reading, b: Reading) -> dict[str, tuple[object, object]]:
    """Fields in which two readings differ, with both values."""
    pairs = {f.name: (getattr(a, f.name), getattr(b, f.name)) for f in fields(Reading)}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
