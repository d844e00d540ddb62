"""Choosing the target's token for a row and accepting drafted tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

_GAMMA = 0x9E3779B97F4A7C15
_U64 = (1 << 64) - 1


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters; the defaults are greedy. Disabled: top_k 0, top_p 1, min_p 0."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0


def _mix(z: np.ndarray) -> np.ndarray:
    z = z ^ (z >> np.uint64(30))
    z = z * np.uint64(0xBF58476D1CE4E5B9)
    z = z ^ (z >> np.uint64(27))
    z = z * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def gumbel_bits(seed: int, position: int, vocab: int) -> np.ndarray:
    """Draw the 64 random bits of every vocabulary entry at one position: uint64 [vocab].

    A counter generator, so any entry can be computed alone: two rounds of the splitmix64 finaliser
    keyed by (seed, position of the token being chosen) and then by the vocabulary index.
    """
    key = np.array([(seed + _GAMMA * (position + 1)) & _U64], np.uint64)
    index = np.arange(1, vocab + 1, dtype=np.uint64)
    return _mix(_mix(key) + np.uint64(_GAMMA) * index)


def gumbel(seed: int, position: int, vocab: int) -> np.ndarray:
    """Draw standard Gumbel noise, float32 [vocab].

    u = ((bits >> 40) + 0.5) * 2^-24 is exact and inside (0, 1); -ln(-ln(u)) is evaluated in float64
    and rounded once.
    """
    u = ((gumbel_bits(seed, position, vocab) >> np.uint64(40)).astype(np.float64) + 0.5) * 2.0**-24
    return (-np.log(-np.log(u))).astype(np.float32)


def penalise(
    logits: np.ndarray, params: Sampling, prompt: Sequence[int], output: Sequence[int]
) -> np.ndarray:
    """Bias, then repetition (prompt and output), frequency and presence (output) penalties.

    All in float32, in that order; ``output`` includes the drafted prefix of the row.
    """
    out = logits.astype(np.float32)
    for token, bias in params.logit_bias.items():
        out[token] += np.float32(bias)
    seen = np.unique(np.array([*prompt, *output], np.int64))
    r = np.float32(params.repetition_penalty)
    out[seen] = np.where(out[seen] > 0, out[seen] / r, out[seen] * r)
    used, count = np.unique(np.array(output, np.int64), return_counts=True)
    frequency, presence = np.float32(params.frequency_penalty), np.float32(params.presence_penalty)
    out[used] -= presence + frequency * count.astype(np.float32)
    return out


def kept_tokens(scaled: np.ndarray, params: Sampling) -> np.ndarray:
    """List tokens kept by top_k, then top_p, then min_p, most likely first (ties: lowest id).

    ``scaled`` are logits over temperature. top_p keeps tokens whose exclusive cumulative
    probability, renormalised over the top_k kept, is below top_p, so the crossing token stays;
    min_p keeps p >= min_p * p_max. Probabilities are float64.
    """
    order = np.argsort(-scaled, kind="stable")
    if params.top_k > 0:
        order = order[: params.top_k]
    mass = np.exp(scaled[order].astype(np.float64) - float(scaled[order[0]]))
    before = np.cumsum(mass) - mass
    top_p, min_p = float(np.float32(params.top_p)), float(np.float32(params.min_p))
    keep = (before < top_p * mass.sum()) & (mass >= min_p)
    keep[0] = True
    return order[keep]


def choose(
    logits: np.ndarray,
    params: Sampling | None = None,
    position: int = 0,
    prompt: Sequence[int] = (),
    output: Sequence[int] = (),
) -> int:
    """Choose the target's own token from one row of logits [V].

    Greedy takes the largest logit, lowest index on ties. Otherwise the Gumbel-max rule: the largest
    ``logit / T + gumbel`` in float32 over the kept tokens, lowest index on ties. ``position`` is
    the absolute position of the token being chosen, so the choice depends on nothing else.
    """
    params = params or Sampling()
    adjusted = penalise(logits, params, prompt, output)
    if params.temperature == 0:
        return int(np.argmax(adjusted))
    scaled = adjusted / np.float32(params.temperature)
    kept = np.sort(kept_tokens(scaled, params))
    noise = gumbel(params.seed, position, scaled.shape[0])
    return int(kept[np.argmax(scaled[kept] + noise[kept])])


def accept(drafts: Sequence[int], choices: Sequence[int]) -> int:
    """Equality walk: how many leading drafts equal the target's choices.

    drafts d_1..d_k; choices t_0..t_k, t_j chosen from the row that holds d_j (row 0: the anchor).
    Draft d_{j+1} is accepted while it equals t_j; the round emits t_0..t_a.
    """
    if len(choices) != len(drafts) + 1:
        raise ValueError(f"{len(drafts)} drafts need {len(drafts) + 1} choices, got {len(choices)}")
    a = 0
    while a < len(drafts) and drafts[a] == choices[a]:
        a += 1
    return a
