"""The shape of a new drafter: what was asked for, else its predecessor's, else sizes by rule."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from kilotok.errors import InvalidRequestError, ModelFormatError
from kilotok.training.dflash.shape import DrafterShape, default_taps

__all__ = ["fresh_shape"]


def fresh_shape(
    target: Path,
    *,
    style: str | None = None,
    taps: tuple[int, ...] | int | None = None,
    window: int | None = None,
    **sizes: Any,
) -> DrafterShape:
    """Shape for a drafter of a target.

    Parameters
    ----------
    target : checkpoint directory; a `dflash` folder in it, if it can be read, gives the defaults.
    style : ``mimo`` or ``z-lab``; another one than the predecessor's takes sizes by rule.
    taps : layers, or how many of them by rule.
    window : keys seen, 0 for all.
    **sizes : layers, heads, kv_heads, head_dim, inter, block, theta, mask_token_id; None: default.

    Raises
    ------
    InvalidRequestError
        Sizes do not fit together, or there is no mask token id.
    """
    config = json.loads((target / "config.json").read_text())
    depth = config["num_hidden_layers"]
    if isinstance(taps, int):
        taps = default_taps(depth, taps)
    asked = {name: value for name, value in sizes.items() if value is not None}
    before = _predecessor(target, config["vocab_size"], depth)
    if before is None or (style is not None and style != before.style):
        mask = before.mask_token_id if before else None
        before = _by_rule(config, style or "mimo", asked.get("mask_token_id", mask))
    layers = asked.get("layers", before.layers)
    head_dim = asked.get("head_dim", before.head_dim)
    if window is None:
        window = before.windows[0] or 0
    if taps is not None and any(not 0 <= tap < depth for tap in taps):
        raise InvalidRequestError("--taps", f"{taps}: expected layers below {depth}")
    return replace(
        before,
        taps=before.taps if taps is None else taps,
        windows=(window or None,) * layers,
        causal=(False,) * layers,
        rotary_dim=before.rotary_dim * head_dim // before.head_dim,
        **asked,
    )


def _predecessor(target: Path, vocab: int, depth: int) -> DrafterShape | None:
    path = target / "dflash" / "config.json"
    if not path.is_file():
        return None
    try:
        return DrafterShape.read(json.loads(path.read_text()), vocab, depth)
    except (ModelFormatError, json.JSONDecodeError):
        return None


def _by_rule(config: dict[str, Any], style: str, mask: int | None) -> DrafterShape:
    if mask is None:
        raise InvalidRequestError(
            "--mask-token-id", "missing, and the target has no drafter to take it from"
        )
    hidden, depth = config["hidden_size"], config["num_hidden_layers"]
    head_dim = 128 if hidden >= 1024 else 64
    heads = max(hidden // head_dim, 1)
    kv_heads = next(n for n in (8, 4, 2, 1) if heads % n == 0 and n <= heads)
    is_mimo = style == "mimo"
    return DrafterShape(
        hidden=hidden,
        layers=5,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        inter=hidden * 3 // 32 * 32,
        rotary_dim=head_dim // 2 if is_mimo else head_dim,
        theta=1e4 if is_mimo else 1e6,
        windows=(1024 if is_mimo else None,) * 5,
        causal=(False,) * 5,
        value_scale=0.612 if is_mimo else 1.0,
        sinks=is_mimo,
        block=8 if is_mimo else 16,
        mask_token_id=mask,
        taps=default_taps(depth, min(5, max(depth - 4, 1))),
        eps=1e-6,
        vocab=config["vocab_size"],
        target_layers=depth,
        style=style,
    )
