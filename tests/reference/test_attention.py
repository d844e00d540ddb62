"""Attention, rotary and routing ops against loops written from their definitions."""

import math

import numpy as np
import pytest
from tiny._reference import reference

ops = reference.ops


def naive(q, k, v, sees, sinks):
    """Softmax attention one query, head and key at a time."""
    out = np.zeros((*q.shape[:2], v.shape[2]))
    for i in range(q.shape[0]):
        for h in range(q.shape[1]):
            g = h * k.shape[1] // q.shape[1]
            keys = [j for j in range(k.shape[0]) if sees(i, j)]
            terms = [math.exp(q[i, h] @ k[j, g] / math.sqrt(q.shape[2])) for j in keys]
            total = sum(terms) + (0 if sinks is None else math.exp(sinks[h]))
            for j, term in zip(keys, terms, strict=True):
                out[i, h] += term / total * v[j, g]
    return out.reshape(q.shape[0], -1)


def draw(rows, heads, kv_heads, dim, v_dim, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((rows, heads, dim)),
        rng.standard_normal((rows, kv_heads, dim)),
        rng.standard_normal((rows, kv_heads, v_dim)),
        rng.standard_normal(heads),
    )


@pytest.mark.parametrize("window", [1, 2, 5, 11, 50])
def test_sliding_window_counts_the_query_itself(window):
    q, k, v, sinks = draw(11, 6, 2, 7, 5)
    pos = np.arange(11) + 100
    got = ops.attention_swa(q, k, v, pos, pos, window, sinks)
    want = naive(q, k, v, lambda i, j: i - window < j <= i, sinks)
    np.testing.assert_allclose(got, want, atol=1e-12)


def test_full_attention_is_causal():
    q, k, v, _ = draw(9, 4, 4, 6, 3)
    pos = np.arange(9)
    got = ops.attention_full(q, k, v, pos, pos)
    np.testing.assert_allclose(got, naive(q, k, v, lambda i, j: j <= i, None), atol=1e-12)


def test_attention_does_not_depend_on_other_query_rows():
    q, k, v, sinks = draw(13, 6, 3, 8, 4)
    pos = np.arange(13)
    whole = ops.attention_swa(q, k, v, pos, pos, 5, sinks)
    tail = ops.attention_swa(q[9:], k, v, pos[9:], pos, 5, sinks)
    np.testing.assert_allclose(whole[9:], tail, atol=1e-14)


def test_rope_rotates_pairs_and_passes_the_rest():
    x = np.random.default_rng(1).standard_normal((3, 2, 10))
    got = ops.rope(x, np.array([0, 5, 70000]), 100.0, 6)
    np.testing.assert_array_equal(got[0], x[0])
    np.testing.assert_array_equal(got[..., 6:], x[..., 6:])
    for t, p in ((1, 5), (2, 70000)):
        for i in range(3):
            turn = complex(math.cos(p * 100 ** (-2 * i / 6)), math.sin(p * 100 ** (-2 * i / 6)))
            for h in range(2):
                z = complex(x[t, h, i], x[t, h, i + 3]) * turn
                assert abs(z - complex(got[t, h, i], got[t, h, i + 3])) < 1e-12


def test_router_bias_selects_but_does_not_weigh():
    x = np.array([[1.0]])
    logits = np.array([0.0, 2.0, 1.0, 2.0, -3.0])
    bias = np.array([0.0, 0.0, 0.0, 0.0, 5.0])
    experts, gates = ops.router(x, logits[:, None], bias, 3, True, 2.0)
    assert experts.tolist() == [[4, 1, 3]], "bias wins, then ties go to the lowest index"
    score = 1 / (1 + np.exp(-logits[[4, 1, 3]]))
    np.testing.assert_allclose(gates[0], 2 * score / score.sum(), rtol=1e-15)


def test_experts_equal_a_loop_over_rows():
    rng = np.random.default_rng(2)
    x, gate, up = (rng.standard_normal(s) for s in ((6, 8), (5, 3, 8), (5, 3, 8)))
    down = rng.standard_normal((5, 8, 3))
    experts = np.array([rng.permutation(5)[:2] for _ in range(6)])
    gates = rng.random((6, 2))
    got = ops.moe_down(ops.moe_up(x, experts, gate, up), experts, gates, down)
    for t in range(6):
        want = np.zeros(8)
        for e, g in zip(experts[t], gates[t], strict=True):
            a = gate[e] @ x[t]
            want += g * (down[e] @ (a / (1 + np.exp(-a)) * (up[e] @ x[t])))
        np.testing.assert_allclose(got[t], want, rtol=1e-12)
