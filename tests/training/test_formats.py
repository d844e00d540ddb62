"""MXFP4 and FP8 rounding: every code point, every tie, and torch equal to numpy."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training code needs PyTorch")

from training.demo.fp8 import dequantize_fp8, quantize_fp8, round_fp8  # noqa: E402

from kilotok.reference.formats import E2M1  # noqa: E402
from kilotok.training import quantize  # noqa: E402
from kilotok.training.qat import round_mxfp4  # noqa: E402
from kilotok.training.quantize import dequantize_mxfp4  # noqa: E402


def quantize_mxfp4(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    codes, scales, _ = quantize.quantize_mxfp4(weight)
    return codes, scales


def unpack(codes: np.ndarray) -> np.ndarray:
    return np.stack([codes & 15, codes >> 4], -1).reshape(*codes.shape[:-1], -1)


def test_every_code_point_survives_at_every_scale():
    row = np.tile(E2M1, 2)
    for scale in range(255):
        exact = row.astype(np.float64) * 2.0 ** (scale - 127)
        if np.abs(exact).max() > np.finfo(np.float32).max:
            # 6 x 2^126 and above are beyond float32: no such weight can be given.
            continue
        block = exact.astype(np.float32)[None]
        codes, scales = quantize_mxfp4(block)
        back = dequantize_mxfp4(codes, scales)
        np.testing.assert_array_equal(back, block)
        if scale:
            assert scales[0, 0] == scale
            np.testing.assert_array_equal(unpack(codes)[0], np.tile(np.arange(16), 2))


@pytest.mark.parametrize(
    ("value", "rounded"),
    [(0.25, 0), (0.75, 1), (1.25, 1), (1.75, 2), (2.5, 2), (3.5, 4), (5.0, 4), (5.01, 6), (7.9, 6)],
)
def test_ties_go_to_even_and_the_top_saturates(value, rounded):
    block = np.zeros((1, 32), np.float32)
    # 4 pins the scale of the block to 1.
    block[0, :3] = (4.0, value, -value)
    codes, scales = quantize_mxfp4(block)
    assert scales[0, 0] == 127
    back = dequantize_mxfp4(codes, scales)[0]
    assert back[1] == rounded
    assert back[2] == -rounded
    assert unpack(codes)[0, 2] & 8


def test_low_nibble_is_the_even_column():
    block = np.zeros((1, 32), np.float32)
    block[0, 0], block[0, 1] = 4.0, 1.0
    codes, _ = quantize_mxfp4(block)
    assert codes[0, 0] == 6 | 2 << 4


def test_rounding_is_to_the_nearest_representable_value():
    rng = np.random.default_rng(3)
    w = rng.normal(size=(64, 96)).astype(np.float32)
    codes, scales = quantize_mxfp4(w)
    step = np.exp2(scales.astype(np.float64) - 127).repeat(32, -1)
    grid = E2M1.astype(np.float64) * step[..., None]
    best = np.abs(grid - w[..., None]).min(-1)
    got = np.abs(dequantize_mxfp4(codes, scales) - w.astype(np.float64))
    np.testing.assert_allclose(got, best, rtol=0, atol=0)


def test_torch_rounding_has_the_same_bits():
    rng = np.random.default_rng(4)
    spread = rng.normal(size=(256, 64)) * np.exp2(rng.integers(-140, 100, size=(256, 1)))
    grid = rng.choice([0, 0.25, 0.5, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 6, 7], size=(256, 64))
    zero = np.zeros((1, 64))
    w = np.concatenate([spread, grid, -grid, zero, -zero]).astype(np.float32)
    expected = dequantize_mxfp4(*quantize_mxfp4(w))
    got = round_mxfp4(torch.from_numpy(w)).numpy()
    np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32))


def test_bad_input_is_an_error():
    with pytest.raises(ValueError, match="multiples of 32"):
        quantize_mxfp4(np.zeros((1, 33), np.float32))
    with pytest.raises(ValueError, match="finite"):
        quantize_mxfp4(np.full((1, 32), np.nan, np.float32))
    with pytest.raises(ValueError, match="255"):
        dequantize_mxfp4(np.zeros((1, 16), np.uint8), np.full((1, 1), 255, np.uint8))


def test_fp8_chunks_have_their_own_scale_grid():
    gen = torch.Generator().manual_seed(5)
    w = torch.randn(2 * 144, 200, generator=gen)
    w[144:] *= 64
    values, scale = quantize_fp8(w, chunks=2)
    # 144 rows are two blocks (the second of 16 rows) in each chunk.
    assert scale.shape == (4, 2)
    alone = quantize_fp8(w[144:])
    assert torch.equal(scale[2:], alone[1])
    assert torch.equal(values[144:].float(), alone[0].float())
    error = (dequantize_fp8(values, scale, chunks=2) - w).abs()
    assert (error <= w.abs() / 16 + scale.max() * 2**-10).all()


def test_fp8_rounding_is_idempotent_and_exact_in_bf16():
    w = torch.randn(272, 384, generator=torch.Generator().manual_seed(6)) * 0.05
    once = round_fp8(w)
    assert torch.equal(round_fp8(once), once)
    assert torch.equal(once.bfloat16().float(), once)
