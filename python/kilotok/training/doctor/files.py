"""What files alone tell about a drafter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from kilotok.training.doctor.diagnose import Finding
from kilotok.training.doctor.forward import Parts
from kilotok.training.record import read_record, target_digest

__all__ = ["check_files"]


def check_files(target: Path, drafter: Path, parts: Parts) -> list[Finding]:
    """Findings that need no forward pass."""
    config = json.loads((drafter / "config.json").read_text())
    return [
        *_mask(drafter, parts),
        *_sinks(parts),
        *_sizes(target, config, parts),
        *_pairing(target, drafter),
    ]


def _mask(drafter: Path, parts: Parts) -> list[Finding]:
    norms = np.linalg.norm(parts.embed, axis=1)
    usual, found = float(np.median(norms)), float(np.linalg.norm(parts.mask))
    if found >= 0.02 * usual:
        return []
    has_sidecar = any(drafter.glob("mask_embedding.*"))
    where = "the sidecar" if has_sidecar else "there is no mask_embedding.pt, and the target's row"
    return [
        Finding(
            "mask_embedding",
            f"{where} for masked rows is almost zero (norm {found:.3g}, usual {usual:.3g}): copy "
            "mask_embedding.pt of the drafter's repository into its folder",
        )
    ]


def _sinks(parts: Parts) -> list[Finding]:
    if not parts.config.sinks or any(np.any(w["sinks"] != 0) for w in parts.layers if "sinks" in w):
        return []
    return [
        Finding(
            "sinks",
            "every attention_sink_bias is exactly zero: the sinks were lost when the drafter was "
            "converted, or never trained",
        )
    ]


def _sizes(target: Path, config: dict[str, Any], parts: Parts) -> list[Finding]:
    findings = []
    vocab, own = len(parts.embed), config.get("vocab_size")
    if own is not None and own != vocab:
        findings.append(
            Finding(
                "vocab_size",
                f"the drafter's config says {own}, the target has {vocab}. kilotok always uses the "
                "target's embedding and head; an engine that builds a head of its own from this "
                "number accepts nothing",
                is_fault=False,
            )
        )
    positions = json.loads((target / "config.json").read_text()).get("max_position_embeddings")
    limit = parts.max_positions
    if limit is not None and positions is not None and limit < positions:
        findings.append(
            Finding(
                "position_table",
                f"the drafter's max_position_embeddings is {limit}, the target's {positions}. "
                "kilotok computes angles and needs no table; an engine with one runs past its end",
                is_fault=False,
            )
        )
    return findings


def _pairing(target: Path, drafter: Path) -> list[Finding]:
    known = read_record(drafter).get("target_sha256")
    if known is None or known == target_digest(target):
        return []
    return [
        Finding(
            "pairing",
            "the drafter was trained for other weights of the target than these: take both from "
            "one release, or go on training it with `kilotok train-drafter --start`",
        )
    ]
