"""Number formats against their bit-level definitions and brute force."""

import numpy as np
import pytest
from tiny._reference import reference

formats = reference.formats


def float_of(code, exponent_bits, mantissa_bits, bias):
    """Value of a small float by its definition, one code at a time."""
    sign = -1.0 if code >> (exponent_bits + mantissa_bits) else 1.0
    exponent = (code >> mantissa_bits) & ((1 << exponent_bits) - 1)
    fraction = (code & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    if exponent == 0:
        return sign * fraction * 2.0 ** (1 - bias)
    return sign * (1 + fraction) * 2.0 ** (exponent - bias)


def test_tables_follow_the_bit_definitions():
    assert formats.E2M1.tolist() == [float_of(c, 2, 1, 1) for c in range(16)]
    finite = [c for c in range(256) if c & 127 != 127]
    assert formats.E4M3[finite].tolist() == [float_of(c, 4, 3, 7) for c in finite]
    assert np.isnan(formats.E4M3[[127, 255]]).all()


@pytest.mark.parametrize("scale", [0, 1, 127, 254])
def test_mxfp4_decodes_every_byte(scale):
    packed = np.arange(256, dtype=np.uint8).reshape(16, 16)
    got = formats.decode_mxfp4(packed, np.full((16, 1), scale, np.uint8))
    for byte in range(256):
        row, column = divmod(byte, 16)
        for half, code in enumerate((byte & 15, byte >> 4)):
            want = float_of(code, 2, 1, 1) * 2.0 ** (scale - 127)
            with np.errstate(over="ignore"):
                assert got[row, 2 * column + half] == np.float32(want)
            assert np.signbit(got[row, 2 * column + half]) == (code >= 8)


def test_mxfp4_scale_255_is_an_error_naming_the_tensor():
    packed, scales = np.zeros((2, 32), np.uint8), np.full((2, 2), 127, np.uint8)
    scales[1, 0] = 255
    with pytest.raises(reference.FormatError, match=r"experts\.3\.up_proj\.weight_scale.*\(1, 0\)"):
        formats.decode_mxfp4(packed, scales, "model.layers.1.mlp.experts.3.up_proj.weight")


@pytest.mark.parametrize(
    ("encode", "table"),
    [(formats.encode_e2m1, formats.E2M1), (formats.encode_e4m3, formats.E4M3[:255])],
)
def test_rounding_is_nearest_ties_to_even_saturating(encode, table):
    finite = np.where(np.isnan(table), np.inf, table)
    top = np.nanmax(table)
    values = np.sort(np.unique(finite[np.isfinite(finite)]))
    midpoints = (values[1:].astype(np.float64) + values[:-1]) / 2
    rng = np.random.default_rng(0)
    cases = np.concatenate([values, midpoints, rng.uniform(-1.2 * top, 1.2 * top, 2000)])
    for x, code in zip(cases, encode(cases), strict=True):
        distance = np.abs(finite.astype(np.float64) - x)
        nearest = np.flatnonzero(distance == distance.min())
        assert code in nearest or (x == 0 and table[code] == 0), x
        if len({abs(float(finite[n])) for n in nearest}) > 1:
            assert code % 2 == 0, f"tie at {x} went to odd code {code}"


def test_mxfp4_scale_is_floor_log2_of_amax_minus_two():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((200, 32)) * np.exp2(rng.integers(-100, 100, (200, 1)))
    x[0] = np.eye(32)[3] * 4.0
    x[1] = np.eye(32)[3] * np.nextafter(8.0, 0)
    x[2] = np.eye(32)[3] * 2.0**-140
    packed, scales = formats.encode_mxfp4(x)
    for row, scale in zip(x, scales[:, 0], strict=True):
        amax, exponent = np.abs(row).max(), -1100
        while 2.0 ** (exponent + 1) <= amax:
            exponent += 1
        assert scale == np.clip(exponent - 2 + 127, 0, 254)
    assert scales[0, 0] == 127
    assert scales[1, 0] == 127
    assert scales[2, 0] == 0
    decoded = formats.decode_mxfp4(packed, scales)
    step = np.exp2(scales.astype(np.float64) - 127)
    # The largest gap between e2m1 values is 2; up to 8 (the next binade) saturates to 6.
    assert (np.abs(decoded - x) <= step * 2).all()
    assert (
        np.abs(decoded - x)[np.abs(x) <= 6 * step] <= np.repeat(step, 32, 1)[np.abs(x) <= 6 * step]
    ).all()


def test_mxfp4_encoding_is_idempotent():
    x = np.random.default_rng(2).standard_normal((64, 96))
    once = formats.decode_mxfp4(*formats.encode_mxfp4(x))
    twice = formats.decode_mxfp4(*formats.encode_mxfp4(once))
    np.testing.assert_array_equal(once, twice)


@pytest.mark.parametrize(
    ("rows", "chunks", "grid"),
    [
        (27136, 8, 216),
        (13568, 4, 108),
        (14848, 4, 116),
        (16384, 1, 128),
        (544, 4, 8),
        (272, 2, 4),
        (130, 1, 2),
    ],
)
def test_scale_rows_of_published_layouts(rows, chunks, grid):
    got = formats.scale_rows(rows, chunks)
    naive, base = [], 0
    for _ in range(chunks):
        naive += [base + r // 128 for r in range(rows // chunks)]
        base += -(-(rows // chunks) // 128)
    assert got.tolist() == naive
    assert base == grid


def test_fp8_chunks_decode_like_separate_matrices():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((4 * 136, 200)) * np.exp2(rng.integers(-6, 6, (4 * 136, 1)))
    codes, scale = formats.encode_fp8(x, chunks=4)
    assert scale.shape == (8, 2)
    got = formats.decode_fp8(codes, scale, 4)
    for t in range(4):
        rows = slice(136 * t, 136 * (t + 1))
        part = formats.decode_fp8(codes[rows], scale[2 * t : 2 * t + 2], 1)
        np.testing.assert_array_equal(got[rows], part)
    block = np.repeat(np.repeat(scale[:2], 128, 0)[:136], 128, 1)[:, :200]
    assert (np.abs(got - x)[:136] <= block * 448 / 28 + 1e-12).all()
    with pytest.raises(reference.FormatError, match="expected"):
        formats.decode_fp8(codes, scale, 1)


def test_bf16_rounds_to_nearest_even():
    x = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -0.0], np.float32)
    assert formats.decode_bf16(formats.encode_bf16(x)).tolist() == [1, 1, 1 + 2**-6, 1 + 2**-7, 0]


@pytest.mark.torch
def test_casts_agree_with_torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x = (np.random.default_rng(4).standard_normal(50000) * 60).astype(np.float32).clip(-448, 448)
    t = torch.from_numpy(x)
    bits = t.to(torch.bfloat16).view(torch.uint16).numpy()
    np.testing.assert_array_equal(formats.encode_bf16(x), bits)
    fp8 = t.to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    np.testing.assert_array_equal(formats.encode_e4m3(x), fp8)
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    np.testing.assert_array_equal(formats.E4M3, every)
