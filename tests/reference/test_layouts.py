"""One set of weights in every layout gives one set of logits."""

import numpy as np
import pytest
import tiny
from tiny._reference import reference

PROMPT = [3, 141, 59, 26, 53, 58, 97, 93, 23, 84, 62, 64, 33]
PLAIN = tiny.PRESETS["flash-f32"].but(draft=None, shards=1)


def logits(path):
    return reference.Mimo(path).forward(PROMPT).logits


@pytest.mark.parametrize(
    "layout",
    [
        {"spelling": "transformers"},
        {"shards": 4},
        {"model_type": "mimo_v2", "fused": True},
        {"model_type": "mimo_v2", "fused": True, "mtp": True},
    ],
    ids=lambda changes: "-".join(f"{k}" for k in changes),
)
def test_layout_does_not_change_the_logits(tmp_path, layout):
    tiny.write(tmp_path / "plain", PLAIN, 5)
    tiny.write(tmp_path / "other", PLAIN.but(**layout), 5)
    want, got = logits(tmp_path / "plain"), logits(tmp_path / "other")
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-11)


@pytest.mark.parametrize("preset", ["pro", "v25"])
def test_wrong_chunking_would_be_noticed(tmp_path, preset):
    """The fused layout matters: reading the same rows as one chunk gives other logits."""
    p = tiny.PRESETS[preset].but(linear="BF16", experts_dtype="BF16", draft=None)
    tiny.write(tmp_path / "fused", p, 5)
    right = reference.Mimo(tmp_path / "fused")
    want = right.forward(PROMPT).logits
    right.config = reference.mimo.parse_target(
        {**right.checkpoint.config, "num_key_value_heads": 1}
    )
    object.__setattr__(right.config, "layers", reference.Mimo(tmp_path / "fused").config.layers)
    wrong = right.forward(PROMPT).logits
    assert np.abs(wrong - want).max() > 0.1 * np.abs(want).max()


@pytest.mark.parametrize(
    ("preset", "limit"), [("pro", 0.2), ("pro-fp8", 0.1), ("v25", 0.1), ("v26", 0.2)]
)
def test_quantised_layouts_approximate_their_weights(tmp_path, preset, limit):
    """Dequantised tensors stay near the same draws in F32: no scale or nibble is misplaced."""
    p = tiny.PRESETS[preset].but(draft=None, mtp=False)
    plain = p.but(plain="F32", linear="F32", experts_dtype="F32", router_dtype="F32")
    tiny.write(tmp_path / "q", p, 6)
    tiny.write(tmp_path / "f", plain, 6)
    quantised, exact = (reference.Mimo(tmp_path / d) for d in "qf")
    for a, b in zip(quantised.layers, exact.layers, strict=True):
        for name in a:
            error = np.abs(a[name] - b[name]).mean() / np.abs(b[name]).mean()
            assert error < limit, name


def test_missing_tensor_is_named(tmp_path):
    p = tiny.PRESETS["pro"].but(draft=None)
    model = tiny.write(tmp_path, p, 0)
    del model.tensors["model.layers.1.mlp.experts.4.up_proj.weight_scale"]
    tiny.files.write_model(tmp_path, "model", model.tensors, 1)
    with pytest.raises(
        reference.FormatError, match=r"experts\.4\.up_proj\.weight_scale is missing"
    ):
        reference.Mimo(tmp_path)
