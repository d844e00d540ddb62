"""Tiny random checkpoints in every on-disk layout, for tests.

>>> import tiny
>>> model = tiny.write(path, "pro", seed=1)

writes a complete model directory and returns what it wrote; instead of a name it takes any
`Preset`, such as ``tiny.PRESETS["pro"].but(window=40)``. From a shell:
``python -m tests.tiny OUT --preset flash --seed 1``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import gpt_oss
from .configs import draft_config, target_config
from .files import write_json, write_model, write_safetensors
from .gpt_oss import GptOssPreset
from .presets import PRESETS as MIMO_PRESETS
from .presets import DraftShape, Preset
from .sidecar import write_mask_embedding
from .teach import teach
from .tokenizer import write_tokenizer
from .weights import Stored, draft_tensors, target_tensors

DRAFT_STEM = "dflash_draft_model"

PRESETS: dict[str, Preset | GptOssPreset] = {**MIMO_PRESETS, **gpt_oss.PRESETS}

__all__ = [
    "PRESETS",
    "DraftShape",
    "GptOssPreset",
    "Preset",
    "Stored",
    "TinyModel",
    "write",
]


@dataclass(frozen=True)
class TinyModel:
    """What was written: configs and tensors exactly as stored (BF16 as uint16, FP8 as uint8)."""

    path: Path
    preset: Preset | GptOssPreset
    config: dict
    tensors: dict[str, Stored]
    draft_config: dict | None
    draft_tensors: dict[str, Stored]


def write(
    path: str | Path,
    preset: str | Preset | GptOssPreset,
    seed: int = 0,
    teach_prompts: Sequence[Sequence[int]] = (),
    teach_tokens: int = 64,
) -> TinyModel:
    """Write a model directory.

    Parameters
    ----------
    path : directory, created if missing.
    preset : a name in `PRESETS` or a `Preset`.
    seed : every tensor is a function of (seed, its name, its shape) alone.
    teach_prompts, teach_tokens : fit the drafter to the greedy continuations of these prompts, so
        that it is accepted some of the time (`teach`).
    """
    path = Path(path)
    p = PRESETS[preset] if isinstance(preset, str) else preset
    path.mkdir(parents=True, exist_ok=True)
    if isinstance(p, GptOssPreset):
        config, tensors = gpt_oss.target_config(p), gpt_oss.target_tensors(p, seed)
    else:
        config, tensors = target_config(p), target_tensors(p, seed)
    write_json(path / "config.json", config)
    write_model(path, "model", tensors, p.shards)
    if p.tokenizer:
        write_tokenizer(path)
    if p.draft is None:
        return TinyModel(path, p, config, tensors, None, {})
    inner = path / "dflash"
    inner.mkdir(exist_ok=True)
    drafter = draft_config(p)
    drafts, mask = draft_tensors(p, seed)
    write_json(inner / "config.json", drafter)
    if p.draft.mask == "safetensors":
        stored = {"mask_embedding": Stored("F32", mask)}
        write_safetensors(inner / "mask_embedding.safetensors", stored)
    elif p.draft.mask != "none":
        token = drafter["dflash_config"]["mask_token_id"] if p.draft.mask == "pt-dict" else None
        write_mask_embedding(inner / "mask_embedding.pt", mask, token)
    write_model(inner, DRAFT_STEM, drafts, p.shards)
    if teach_prompts:
        drafts = teach(path, drafts, teach_prompts, teach_tokens, slots=3)
        write_model(inner, DRAFT_STEM, drafts, p.shards)
    return TinyModel(path, p, config, tensors, drafter, drafts)
