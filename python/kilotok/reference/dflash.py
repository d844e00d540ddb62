"""The DFlash drafter and the speculative loop around a target (dflash_spec 1, 2)."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kilotok.reference import ops
from kilotok.reference.checkpoint import Checkpoint, read_safetensors
from kilotok.reference.config import DraftConfig, parse_draft
from kilotok.reference.errors import FormatError
from kilotok.reference.formats import decode_bf16
from kilotok.reference.target import Target


def read_mask_embedding(directory: Path, hidden: int) -> np.ndarray | None:
    """Read the sidecar that replaces the mask token's embedding row: float32 [H], None if absent.

    ``mask_embedding.pt`` is a torch zip whose only storage is the uncompressed entry ``*/data/0``:
    2H bytes of BF16 or 4H bytes of float32. Nothing of its pickle is executed.
    """
    tensors = directory / "mask_embedding.safetensors"
    if tensors.exists():
        (stored,) = read_safetensors(tensors).values()
        data = decode_bf16(stored.data) if stored.dtype == "BF16" else stored.data
        return data.reshape(-1).astype(np.float32)
    sidecar = directory / "mask_embedding.pt"
    if not sidecar.exists():
        return None
    with zipfile.ZipFile(sidecar) as archive:
        (entry,) = [name for name in archive.namelist() if name.endswith("/data/0")]
        raw = archive.read(entry)
    if len(raw) == 2 * hidden:
        return decode_bf16(np.frombuffer(raw, "<u2"))
    if len(raw) == 4 * hidden:
        return np.frombuffer(raw, "<f4")
    raise FormatError(f"mask_embedding.pt: {len(raw)} bytes, expected {2 * hidden} or {4 * hidden}")


@dataclass
class Context:
    """Drafter keys and values of committed rows: per layer [n, kv_heads, dim], row i position i."""

    keys: list[np.ndarray]
    values: list[np.ndarray]

    @property
    def length(self) -> int:
        """Number of committed rows."""
        return self.keys[0].shape[0]


class Drafter:
    """A DFlash drafter; embedding and head are the target's.

    Parameters
    ----------
    path : drafter directory (``dflash/`` of a model directory).
    target : the target whose taps, embedding and head it uses.
    """

    def __init__(self, path: str | Path, target: Target) -> None:
        path = Path(path)
        self.checkpoint = Checkpoint.open(path)
        self.config: DraftConfig = parse_draft(self.checkpoint.config)
        self.target = target
        self.dtype = target.dtype
        self.fc = self._array("fc.weight")
        self.hidden_norm = self._array("hidden_norm.weight")
        self.norm = self._array("norm.weight")
        self.layers = [self._layer(i) for i in range(self.config.layers)]
        mask = read_mask_embedding(path, self.config.hidden_size)
        if mask is None:
            mask = target.embedding[self.config.mask_token_id]
        self.mask_embedding: np.ndarray = mask.astype(self.dtype)

    def _array(self, name: str) -> np.ndarray:
        return self.checkpoint.array(name).astype(self.dtype)

    def _layer(self, index: int) -> dict[str, np.ndarray]:
        root = f"layers.{index}."
        names = {
            "attn_norm": "input_layernorm.weight",
            "ffn_norm": "post_attention_layernorm.weight",
            **{p: f"self_attn.{p}_proj.weight" for p in "qkvo"},
            "q_norm": "self_attn.q_norm.weight",
            "k_norm": "self_attn.k_norm.weight",
            **{p: f"mlp.{p}_proj.weight" for p in ("gate", "up", "down")},
        }
        if self.config.sinks:
            names["sinks"] = "self_attn.attention_sink_bias"
        return {key: self._array(root + name) for key, name in names.items()}

    def empty(self) -> Context:
        """Make a context of no rows."""
        c = self.config
        none: list[np.ndarray] = [np.empty((0, c.kv_heads, c.head_dim), self.dtype)] * c.layers
        return Context(list(none), list(none))

    def extend(self, context: Context, taps: np.ndarray) -> Context:
        """Append committed rows: taps [n, K * H] of positions length..length + n - 1."""
        c = self.config
        rows = ops.draft_fc(taps.astype(self.dtype), self.fc, self.hidden_norm, c.eps)
        positions = context.length + np.arange(taps.shape[0])
        keys, values = [], []
        for i, w in enumerate(self.layers):
            k, v = ops.draft_context(
                rows,
                positions,
                w["k"],
                w["v"],
                w["k_norm"],
                c.eps,
                c.theta,
                c.rotary_dim,
                c.value_scale,
                c.yarn,
            )
            k, v = ops.kv_append(context.keys[i], context.values[i], k, v)
            keys.append(k)
            values.append(v)
        return Context(keys, values)

    def hidden(self, context: Context, anchor: int, size: int) -> np.ndarray:
        """Residual [size, H] of a block after the last layer, before the final norm.

        The block is the anchor at position ``context.length`` followed by ``size - 1`` masks.
        """
        c = self.config
        start = context.length
        positions = start + np.arange(size)
        x = ops.draft_embed(self.target.embedding, self.mask_embedding, anchor, size)
        for i, w in enumerate(self.layers):
            y = ops.rms_norm(x, w["attn_norm"], c.eps)
            q, k, v = ops.draft_qkv(
                y, w["q"], w["k"], w["v"], w["q_norm"], w["k_norm"], c.eps, c.value_scale
            )
            q, k = (ops.rope(h, positions, c.theta, c.rotary_dim, c.yarn) for h in (q, k))
            k, v = ops.kv_append(context.keys[i], context.values[i], k, v)
            o = ops.draft_attention(
                q,
                k,
                v,
                positions,
                np.arange(start + size),
                start,
                c.windows[i],
                w.get("sinks"),
                c.causal[i],
            )
            x = x + ops.o_proj(o, w["o"])
            z = ops.rms_norm(x, w["ffn_norm"], c.eps)
            x = x + ops.dense_down(ops.dense_up(z, w["gate"], w["up"]), w["down"])
        return x

    def block(self, context: Context, anchor: int, size: int | None = None) -> np.ndarray:
        """Draft logits [size - 1, V]; row j - 1 predicts the token at position length + j."""
        x = self.hidden(context, anchor, size or self.config.block_size)
        return ops.lm_head(ops.rms_norm(x[1:], self.norm, self.config.eps), self.target.head)


@dataclass
class Round:
    """One round at ``start`` committed rows: the drafts, the target's choices, how many it took."""

    start: int
    anchor: int
    drafts: list[int]
    choices: list[int]
    accepted: int


@dataclass
class Transcript:
    """Output of the speculative loop. The first token comes from the prefill and has no round."""

    tokens: list[int]
    rounds: list[Round] = field(default_factory=list)

    @property
    def tau(self) -> float:
        """Mean tokens per round, the bonus token included."""
        return 1 + sum(r.accepted for r in self.rounds) / len(self.rounds)


def speculate(
    target: Target,
    drafter: Drafter,
    prompt: Sequence[int],
    tokens: int,
    params: ops.Sampling | None = None,
    block: int | None = None,
) -> Transcript:
    """Decode ``tokens`` tokens speculatively; the output equals ``target.generate`` by law.

    Drafts are the drafter's argmax. ``block`` counts the anchor; it shrinks where fewer tokens are
    left, and the last round counts only tokens that are emitted. A shorter block verifies the
    first drafts of a whole one, since its rows see each other and were trained together.
    """
    layer_ids = drafter.config.target_layer_ids
    prefill = target.forward(prompt)
    context = drafter.extend(drafter.empty(), prefill.taps(layer_ids))
    out = [ops.choose(prefill.logits[-1], params, len(prompt), prompt, [])]
    result = Transcript(out)
    while len(out) < tokens:
        size = min(block or drafter.config.block_size, tokens - len(out))
        drafts: list[int] = []
        if size > 1:
            drafts = ops.draft_choose(drafter.block(context, out[-1]))[: size - 1]
        start = context.length
        verify = target.forward([*prompt, *out, *drafts])
        choices = [
            ops.choose(verify.logits[start + j], params, start + j + 1, prompt, out + drafts[:j])
            for j in range(size)
        ]
        a = ops.accept(drafts, choices)
        result.rounds.append(Round(start, out[-1], drafts, choices, a))
        out.extend(choices[: a + 1])
        context = drafter.extend(context, verify.taps(layer_ids)[start : start + a + 1])
    return result
