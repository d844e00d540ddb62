"""What is examined: a target's own greedy texts with their residuals, and a drafter's parts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kilotok import _core
from kilotok.engine import Engine
from kilotok.reference.checkpoint import Checkpoint, read_safetensors
from kilotok.reference.config import parse_draft
from kilotok.reference.dflash import read_mask_embedding
from kilotok.reference.formats import decode_bf16
from kilotok.sampling import SamplingParams
from kilotok.training.doctor.forward import Parts, Text

__all__ = ["TargetParts", "read_parts", "read_target", "read_texts", "write_texts"]


class TargetParts:
    """Embedding, head and final norm of a target, and its depth."""

    def __init__(self, target: Path) -> None:
        config = json.loads((target / "config.json").read_text())
        self.depth: int = config["num_hidden_layers"]
        self.eps = float(config.get("rms_norm_eps") or config.get("layernorm_epsilon") or 1e-6)
        table = "model.embed_tokens.weight"
        head = table if config.get("tie_word_embeddings") else "lm_head.weight"
        self.embed, self.head, self.norm = (
            _tensor(target, name) for name in (table, head, "model.norm.weight")
        )


def _tensor(target: Path, name: str) -> np.ndarray:
    for file in sorted(target.glob("*.safetensors")):
        stored = read_safetensors(file).get(name)
        if stored is not None:
            data = decode_bf16(stored.data) if stored.dtype == "BF16" else stored.data
            return np.asarray(data, np.float32)
    raise KeyError(name)


def read_target(target: Path) -> TargetParts:
    """The target's parts that drafts are made of."""
    return TargetParts(target)


def read_parts(target: TargetParts, drafter: Path) -> Parts:
    """A drafter's weights in float32.

    Raises
    ------
    kilotok.reference.FormatError, KeyError
        A tensor or key is missing.
    """
    checkpoint = Checkpoint.open(drafter)
    config = parse_draft(checkpoint.config)

    def array(name: str) -> np.ndarray:
        return checkpoint.array(name).astype(np.float32)

    layers = []
    for i in range(config.layers):
        root = f"layers.{i}."
        w = {
            "attn_norm": array(root + "input_layernorm.weight"),
            "ffn_norm": array(root + "post_attention_layernorm.weight"),
            "q_norm": array(root + "self_attn.q_norm.weight"),
            "k_norm": array(root + "self_attn.k_norm.weight"),
            **{p: array(f"{root}self_attn.{p}_proj.weight") for p in "qkvo"},
            **{p: array(f"{root}mlp.{p}_proj.weight") for p in ("gate", "up", "down")},
        }
        sinks = f"{root}self_attn.attention_sink_bias"
        if sinks in checkpoint.tensors:
            w["sinks"] = array(sinks)
        layers.append(w)
    mask = read_mask_embedding(drafter, config.hidden_size)
    return Parts(
        config=config,
        layers=layers,
        fc=array("fc.weight"),
        hidden_norm=array("hidden_norm.weight"),
        norm=array("norm.weight"),
        embed=target.embed,
        head=target.head,
        final_norm=target.norm,
        final_eps=target.eps,
        mask=target.embed[config.mask_token_id] if mask is None else mask,
        depth=target.depth,
        max_positions=checkpoint.config.get("max_position_embeddings"),
        tappable=_near(config.target_layer_ids, target.depth),
    )


def _near(taps: Sequence[int], depth: int) -> frozenset[int]:
    """Taps and their neighbours, the embedding (-1) and the last layer among them."""
    near = {tap + step for tap in taps for step in (-2, -1, 0, 1, 2)}
    return frozenset({layer for layer in near if -1 <= layer < depth} | {depth - 1})


def write_texts(
    engine: Engine, prompts: Sequence[tuple[Sequence[int], str]], tokens: int, block: int | None
) -> tuple[list[tuple[list[int], int, str]], list[list[int]]]:
    """Greedy answers of (token ids, category) prompts: (text, prompt size, category) of each.

    With `block` they are decoded speculatively; the second result then holds each request's
    histogram of accepted drafts.
    """
    params = SamplingParams(max_tokens=tokens, ignore_eos=True)
    outputs = engine.generate(
        [list(ids) for ids, _ in prompts], params, speculation="off" if block is None else block
    )
    texts = [
        ([*ids, *output.token_ids], len(ids), category)
        for (ids, category), output in zip(prompts, outputs, strict=True)
    ]
    return texts, [list(o.receipt.accepted_histogram) for o in outputs]


def read_texts(
    target: Path,
    parts: Parts,
    texts: Sequence[tuple[list[int], int, str]],
    threads: int | None = None,
) -> list[Text]:
    """Texts with the residuals that a reading may tap, from the engine."""
    wanted = sorted(parts.tappable - {-1})
    longest = max(len(tokens) for tokens, _, _ in texts)
    reader = _core.open_taps(str(target), wanted, max_positions=longest, threads=threads)
    out = []
    read = reader.read([tokens for tokens, _, _ in texts])
    for (tokens, start, category), taps in zip(texts, read, strict=True):
        rows = np.frombuffer(taps, np.float32).reshape(len(tokens), len(wanted), -1)
        residuals = {layer: rows[:, i] for i, layer in enumerate(wanted)}
        residuals[-1] = parts.embed[tokens]
        out.append(Text(np.asarray(tokens), start, residuals, category))
    return out
