"""Number formats of the checkpoints: BF16, FP8-e4m3 with 128x128 scales, and OCP MXFP4.

Everything here is exact: decoding yields float32 values without rounding, and encoding rounds to
nearest with ties to even and saturates at the largest finite magnitude.
"""

from __future__ import annotations

import numpy as np

from kilotok.reference.errors import FormatError

MXFP4_BLOCK = 32
FP8_BLOCK = 128
E8M0_NAN = 255

# Code -> value, low three bits magnitude, bit 3 sign (OCP MX v1.0, table 4). Code 8 is -0.
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def _e4m3_table() -> np.ndarray:
    codes = np.arange(256)
    exponent, mantissa = (codes >> 3) & 15, codes & 7
    magnitude = np.where(
        exponent == 0,
        mantissa * 2.0**-9,
        (1 + mantissa / 8) * 2.0 ** (exponent.astype(np.float64) - 7),
    )
    magnitude[(codes & 127) == 127] = np.nan
    return np.where(codes & 128, -magnitude, magnitude).astype(np.float32)


# Code -> value, the "fn" variant: no infinities, S.1111.111 is NaN, largest finite value 448.
E4M3 = _e4m3_table()


def _nearest_code(magnitude: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Index of the nearest entry of the ascending ``values``; ties go to the even index."""
    midpoints = (values[1:].astype(np.float64) + values[:-1]) / 2
    below = np.searchsorted(midpoints, magnitude, side="left")
    above = np.searchsorted(midpoints, magnitude, side="right")
    return np.where(below % 2 == 0, below, above)


def encode_e2m1(x: np.ndarray) -> np.ndarray:
    """Round to e2m1 codes (uint8, 0..15): nearest, ties to even, saturating at 6."""
    code = _nearest_code(np.abs(x), E2M1[:8])
    return (code | np.where(np.signbit(x), 8, 0)).astype(np.uint8)


def encode_e4m3(x: np.ndarray) -> np.ndarray:
    """Round to e4m3 codes (uint8): nearest, ties to even, saturating at 448."""
    code = _nearest_code(np.abs(x), E4M3[:127])
    return (code | np.where(np.signbit(x), 128, 0)).astype(np.uint8)


def decode_e8m0(scales: np.ndarray, name: str = "scale") -> np.ndarray:
    """Block scales as float64: 2 ** (s - 127).

    Parameters
    ----------
    scales : uint8 array of any shape.
    name : tensor name used in the error.

    Raises
    ------
    FormatError
        If a scale is 255, which is NaN in e8m0.
    """
    bad = np.argwhere(scales == E8M0_NAN)
    if bad.size:
        where = tuple(int(i) for i in bad[0])
        raise FormatError(f"{name}: e8m0 scale at {where} is 255 (NaN); expected 0..254")
    return np.exp2(scales.astype(np.float64) - 127)


def decode_mxfp4(packed: np.ndarray, scales: np.ndarray, name: str = "weight") -> np.ndarray:
    """Expand an MXFP4 matrix: low nibble first, one e8m0 scale per 32 input columns.

    Parameters
    ----------
    packed : uint8 [rows, cols / 2]; byte b holds columns 2b (low nibble) and 2b + 1 (high).
    scales : uint8 [rows, cols / 32].
    name : tensor name used in errors.

    Returns
    -------
    float32 [rows, cols]. Magnitudes beyond float32 (scale 254 with 4 or 6) become infinite.
    """
    rows, half = packed.shape
    if scales.shape != (rows, half * 2 // MXFP4_BLOCK) or half * 2 % MXFP4_BLOCK:
        raise FormatError(
            f"{name}: packed {packed.shape} needs scales ({rows}, {half * 2 / MXFP4_BLOCK:g}), "
            f"got {scales.shape}"
        )
    codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(rows, -1, MXFP4_BLOCK)
    scale = decode_e8m0(scales, name.replace(".weight", ".weight_scale"))
    with np.errstate(over="ignore"):
        return (E2M1[codes] * scale[..., None]).astype(np.float32).reshape(rows, half * 2)


def encode_mxfp4(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantise rows to MXFP4 by the OCP rule.

    The scale exponent of a block is ``floor(log2(amax)) - 2`` (2 is the exponent of e2m1's largest
    binade), stored plus 127 and clamped to 0..254; elements round to nearest even and saturate.
    An all-zero block takes scale byte 0.

    Parameters
    ----------
    x : finite float [rows, cols], cols a multiple of 32.

    Returns
    -------
    packed : uint8 [rows, cols / 2]
    scales : uint8 [rows, cols / 32]
    """
    if x.shape[1] % MXFP4_BLOCK or not np.isfinite(x).all():
        raise FormatError(f"mxfp4 needs finite rows of 32-column blocks, got shape {x.shape}")
    blocks = x.astype(np.float64).reshape(x.shape[0], -1, MXFP4_BLOCK)
    amax = np.abs(blocks).max(axis=-1)
    # frexp gives amax = m * 2**e with m in [0.5, 1), so floor(log2(amax)) = e - 1 exactly.
    exponent = np.frexp(amax)[1] - 1
    scales = np.where(amax > 0, np.clip(exponent - 2 + 127, 0, 254), 0).astype(np.uint8)
    codes = encode_e2m1(blocks / np.exp2(scales.astype(np.float64) - 127)[..., None])
    codes = codes.reshape(x.shape)
    return codes[:, 0::2] | (codes[:, 1::2] << 4), scales


def scale_rows(rows: int, chunks: int) -> np.ndarray:
    """Scale-grid row of every stored weight row, for a matrix stored as ``chunks`` equal chunks.

    Each chunk carries its own 128-row grid, the last block possibly partial, so the grid has
    ``chunks * ceil(rows / chunks / 128)`` rows. One chunk is the ordinary layout.
    """
    if rows % chunks:
        raise FormatError(f"{rows} rows do not split into {chunks} equal chunks")
    per_chunk = rows // chunks
    row = np.arange(rows)
    blocks = -(-per_chunk // FP8_BLOCK)
    return row // per_chunk * blocks + row % per_chunk // FP8_BLOCK


def decode_fp8(
    codes: np.ndarray, scale_inv: np.ndarray, chunks: int = 1, name: str = "weight"
) -> np.ndarray:
    """Expand an FP8 matrix: e4m3 value times the float32 scale of its 128x128 block.

    Parameters
    ----------
    codes : uint8 [rows, cols].
    scale_inv : float32 [chunks * ceil(rows / chunks / 128), ceil(cols / 128)]; multiplied, despite
        the checkpoint's name for it.
    chunks : number of chunks the rows are stored in (`scale_rows`).
    name : tensor name used in errors.

    Returns
    -------
    float32 [rows, cols].
    """
    rows, cols = codes.shape
    row = scale_rows(rows, chunks)
    expected = (int(row[-1]) + 1, -(-cols // FP8_BLOCK))
    if scale_inv.shape != expected:
        raise FormatError(f"{name}: weight_scale_inv is {scale_inv.shape}, expected {expected}")
    return E4M3[codes] * scale_inv[row][:, np.arange(cols) // FP8_BLOCK]


def encode_fp8(x: np.ndarray, chunks: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Quantise to FP8 blocks (scale = block amax / 448); the inverse of `decode_fp8`."""
    rows, cols = x.shape
    row, col = scale_rows(rows, chunks), np.arange(cols) // FP8_BLOCK
    amax = np.zeros((row[-1] + 1, col[-1] + 1), np.float32)
    np.maximum.at(amax, (row[:, None], col[None, :]), np.abs(x).astype(np.float32))
    scale = np.where(amax > 0, amax / np.float32(448), np.float32(1)).astype(np.float32)
    return encode_e4m3(x / scale[row][:, col].astype(np.float64)), scale


def decode_bf16(bits: np.ndarray) -> np.ndarray:
    """uint16 BF16 bits to float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def encode_bf16(x: np.ndarray) -> np.ndarray:
    """Finite float32 to uint16 BF16 bits, round to nearest even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
