"""Op draft_qkv: projections of block rows, queries and keys normed per head."""

from dataclasses import replace

import numpy as np
import pytest
from parity.probe import silence
from tiny._reference import reference

formats = reference.formats


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(4, 2, 16), (3, 3, 12), (7, 1, 4), (2, 1, 96)]
)
def test_draft_qkv(probe, prompt, simd, heads, kv_heads, head_dim):
    tokens = prompt(6)
    draft = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "layers": 1}
    p = probe("flash", tokens=tokens, draft=draft, draft_edits=[silence("down_proj")])
    p.check_draft(tokens, 5, 8, simd=simd)


@pytest.mark.parametrize("norm", ["q_norm", "k_norm"])
def test_head_norms_have_weights_and_ignore_the_scale_of_projections(probe, prompt, norm):
    """Scaling a projection by 1000 changes nothing that its norm sees."""

    def edit(tensors, rng):
        for name, stored in tensors.items():
            if name.endswith(f"{norm[0]}_proj.weight"):
                data = formats.encode_bf16(formats.decode_bf16(stored.data) * 1000)
                tensors[name] = replace(stored, data=data)
            elif name.endswith(f"{norm}.weight"):
                data = formats.encode_bf16(rng.uniform(0.2, 2, stored.data.shape).astype("f4"))
                tensors[name] = replace(stored, data=data)

    tokens = prompt(6)
    p = probe("flash", tokens=tokens, draft_edits=[edit])
    p.check_draft(tokens, 5, 8)
    assert np.isfinite(p.engine_draft(tokens, 5, 8)[0]).all()
