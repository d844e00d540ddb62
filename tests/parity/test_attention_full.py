"""Op attention_full: causal over everything, across pages and chunks."""

import pytest
from parity.probe import silence

FULL = {"sliding": (0, 0), "sparse": (0, 0)}


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 64, 65, 150])
def test_attention_full(probe, prompt, simd, length):
    probe("flash", silence("down_proj"), **FULL).check(prompt(length), simd=simd)


@pytest.mark.parametrize("chunk", [1, 5, 16, 63])
def test_cached_keys_serve_later_chunks(probe, prompt, chunk):
    probe("flash", silence("down_proj"), **FULL).check(prompt(100), chunk=chunk)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "v_head_dim"),
    [(8, 8, 12, 10), (6, 2, 7, 5), (5, 1, 33, 65), (3, 3, 192, 128)],
)
def test_head_shapes(probe, prompt, simd, heads, kv_heads, head_dim, v_head_dim):
    p = probe(
        "flash",
        silence("down_proj"),
        **FULL,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        v_head_dim=v_head_dim,
        partial_rotary_factor=2.1 / head_dim,
    )
    p.check(prompt(40), simd=simd)


def test_sinks_on_full_layers(probe, prompt, simd):
    p = probe("flash", silence("down_proj"), **FULL, full_sinks=True)
    p.check(prompt(40), simd=simd)
