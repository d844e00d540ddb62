"""Sizes and conventions of a drafter, and its `config.json` in both published spellings."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from kilotok.errors import InvalidRequestError, ModelFormatError
from kilotok.reference.config import parse_draft
from kilotok.reference.errors import FormatError

__all__ = ["STYLES", "DrafterShape", "default_taps"]

#: ``mimo``: sidecar mask embedding, sinks, value scale, partial rotary, a window, both directions.
#: ``z-lab``: plain Qwen3 layers that see everything; masked rows are a row of the target's table.
STYLES = ("mimo", "z-lab")


def default_taps(layers: int, count: int) -> tuple[int, ...]:
    """0-based target layers to tap: evenly from the second to the third last (DFlash reference).

    Raises
    ------
    InvalidRequestError
        The target is too shallow for so many different taps.
    """
    if count == 1:
        return (layers // 2,)
    taps = tuple(round(1 + i * (layers - 4) / (count - 1)) for i in range(count))
    if any(b <= a for a, b in pairwise(taps)) or taps[-1] >= layers:
        raise InvalidRequestError("taps", f"{count} taps do not fit {layers} layers: {taps}")
    return taps


@dataclass(frozen=True)
class DrafterShape:
    """A DFlash drafter.

    Attributes
    ----------
    block : rows of a block, the anchor included.
    taps : 0-based target layers whose output residual is read, in column order.
    windows : per layer, keys seen (the query's own included), or None for all.
    causal : per layer, whether block rows see only earlier block rows.
    vocab, target_layers : the target's, written for readers that check them.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    inter: int
    rotary_dim: int
    theta: float
    windows: tuple[int | None, ...]
    causal: tuple[bool, ...]
    value_scale: float
    sinks: bool
    block: int
    mask_token_id: int
    taps: tuple[int, ...]
    eps: float
    vocab: int
    target_layers: int
    style: str = "mimo"

    def __post_init__(self) -> None:
        problems = [
            (self.style not in STYLES, f"style {self.style!r} is none of {', '.join(STYLES)}"),
            (self.block < 2, f"block {self.block} has no drafts, expected at least 2"),
            (self.heads % self.kv_heads != 0, f"{self.kv_heads} kv heads, {self.heads} heads"),
            (self.rotary_dim % 2 != 0, f"rotary_dim {self.rotary_dim} is odd"),
            (
                any(w is not None and w < self.block for w in self.windows),
                f"a window of {self.windows} is shorter than the block",
            ),
            (
                not 0 <= self.mask_token_id < self.vocab,
                f"mask token {self.mask_token_id} is outside the vocabulary of {self.vocab}",
            ),
        ]
        for is_wrong, reason in problems:
            if is_wrong:
                raise InvalidRequestError("drafter shape", reason)
        if self.style == "z-lab" and (
            self.sinks or self.value_scale != 1.0 or self.rotary_dim != self.head_dim
        ):
            raise InvalidRequestError(
                "style", "z-lab drafters have no sinks, value scale or partial rotary"
            )

    @property
    def has_mask_embedding(self) -> bool:
        """Whether masked rows have a trained embedding of their own (a sidecar file)."""
        return self.style == "mimo"

    @classmethod
    def read(cls, config: dict[str, Any], vocab: int, target_layers: int) -> DrafterShape:
        """From a drafter's `config.json`.

        Raises
        ------
        ModelFormatError
            A key is missing, or the drafter uses what the trainer has not (YaRN, biases).
        """
        try:
            draft = parse_draft(config)
        except (FormatError, KeyError) as error:
            raise ModelFormatError(f"dflash/config.json: {error} is missing or unusable") from error
        if draft.yarn is not None:
            raise ModelFormatError(
                "dflash/config.json: rope_scaling: YaRN drafters are not trained"
            )
        is_plain = not draft.sinks and draft.value_scale == 1.0 and not draft.windows[0]
        return cls(
            hidden=draft.hidden_size,
            layers=draft.layers,
            heads=draft.heads,
            kv_heads=draft.kv_heads,
            head_dim=draft.head_dim,
            inter=config["intermediate_size"],
            rotary_dim=draft.rotary_dim,
            theta=draft.theta,
            windows=draft.windows,
            causal=draft.causal,
            value_scale=draft.value_scale,
            sinks=draft.sinks,
            block=draft.block_size,
            mask_token_id=draft.mask_token_id,
            taps=draft.target_layer_ids,
            eps=draft.eps,
            vocab=vocab,
            target_layers=target_layers,
            style="z-lab" if is_plain and draft.rotary_dim == draft.head_dim else "mimo",
        )

    def config(self) -> dict[str, Any]:
        """Contents of `config.json`, in the spelling of `style`."""
        common: dict[str, Any] = {
            "architectures": ["DFlashDraftModel"],
            "model_type": "qwen3",
            "torch_dtype": "bfloat16",
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.inter,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "rope_theta": self.theta,
            "rms_norm_eps": self.eps,
            "hidden_act": "silu",
            "attention_bias": False,
            "tie_word_embeddings": False,
            "num_target_layers": self.target_layers,
            "block_size": self.block,
        }
        nested: dict[str, Any] = {
            "target_layer_ids": list(self.taps),
            "mask_token_id": self.mask_token_id,
            "block_size": self.block,
        }
        sliding = [w for w in self.windows if w is not None]
        if self.style == "mimo" and len(sliding) == self.layers and len({*sliding}) == 1:
            common |= {"v_head_dim": self.head_dim, "sliding_window": sliding[0]}
            nested |= {"use_swa": True, "swa_window_size": sliding[0]}
        else:
            names = ("full_attention", "sliding_attention")
            common |= {
                "layer_types": [names[w is not None] for w in self.windows],
                "sliding_window": sliding[0] if sliding else None,
                "use_sliding_window": bool(sliding),
            }
        if any(self.causal) or (sliding and "layer_types" in common):
            common["is_causal"] = all(self.causal)
        if self.style == "mimo":
            common["partial_rotary_factor"] = self.rotary_dim / self.head_dim
            nested |= {
                "attention_sink_bias": self.sinks,
                "attention_value_scale": self.value_scale,
            }
        return common | {"dflash_config": nested}
