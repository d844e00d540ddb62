"""MXFP4 codec (OCP MX v1.0): blocks of 32 along the last axis, e2m1 elements, one e8m0 scale.

The numpy functions are the canonical definition of the rounding used in training and by the
engine: scale exponent floor(log2(amax)) - 2, round to nearest even, saturate at +-6. The torch
function gives the same values.
"""

from __future__ import annotations

import numpy as np
import torch

BLOCK = 32
#: e2m1 code -> value; bit 3 is the sign, so code 8 is -0.
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
#: Midpoint below each magnitude code 1..7, and whether the midpoint itself rounds up (to even).
_MIDPOINTS = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
_TIE_UP = (False, True, False, True, False, True, False)


def quantize_mxfp4(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round a matrix to MXFP4.

    Parameters
    ----------
    weight : float32 array [..., rows, K]
        K must be a multiple of 32. Values must be finite.

    Returns
    -------
    codes : uint8 array [..., rows, K // 2]
        Byte b of a row holds column 2b in its low nibble and 2b + 1 in its high nibble.
    scales : uint8 array [..., rows, K // 32]
        e8m0, value 2**(s - 127); 0 for a block of zeros (every code then is +-0).

    Raises
    ------
    ValueError
        If K is not a multiple of 32 or a value is not finite.
    """
    w = np.ascontiguousarray(weight, np.float32)
    if w.shape[-1] % BLOCK:
        raise ValueError(f"last axis is {w.shape[-1]}, expected a multiple of {BLOCK}")
    if not np.isfinite(w).all():
        raise ValueError("MXFP4 holds finite values only; the weight has NaN or infinity")
    blocks = w.reshape(*w.shape[:-1], -1, BLOCK)
    amax = np.abs(blocks).max(-1)
    # The biased exponent field of a float32 is floor(log2) + 127 (0 for subnormals, which clamp).
    exponent = (amax.view(np.uint32) >> 23).astype(np.int32)
    scales = np.clip(exponent - 2, 0, 254).astype(np.uint8)
    y = np.abs(blocks.astype(np.float64)) * np.exp2(127.0 - scales[..., None])
    code = np.zeros(blocks.shape, np.uint8)
    for midpoint, up in zip(_MIDPOINTS, _TIE_UP, strict=True):
        code += (y >= midpoint) if up else (y > midpoint)
    code |= np.signbit(blocks).astype(np.uint8) << 3
    code = code.reshape(w.shape)
    return code[..., 0::2] | (code[..., 1::2] << 4), scales


def dequantize_mxfp4(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Inverse of :func:`quantize_mxfp4`; float32 [..., rows, K].

    Raises
    ------
    ValueError
        If a scale is 255 (NaN in e8m0).
    """
    if (scales == 255).any():
        raise ValueError("e8m0 scale 255 is NaN")
    nibbles = np.stack([codes & 15, codes >> 4], -1).reshape(*codes.shape[:-1], -1)
    factor = np.exp2(scales.astype(np.float64) - 127.0)
    values = E2M1[nibbles].reshape(*scales.shape, BLOCK) * factor[..., None]
    return values.reshape(nibbles.shape).astype(np.float32)


def round_mxfp4(weight: torch.Tensor) -> torch.Tensor:
    """`dequantize_mxfp4(*quantize_mxfp4(weight))` in torch, float32, without packing.

    Used every training step; equal to the numpy definition bit for bit (a test holds it to that).
    """
    blocks = weight.float().unflatten(-1, (-1, BLOCK))
    amax = blocks.abs().amax(-1, keepdim=True)
    exponent = (amax.view(torch.int32) >> 23).sub(2).clamp(0, 254)
    # 2**(127 - s) as float bits; s = 0 needs 2**127, still a normal number.
    inverse = ((254 - exponent).clamp_min(1) << 23).view(torch.float32)
    scale = (exponent.clamp_min(1) << 23).view(torch.float32)
    scale = torch.where(exponent == 0, scale * 0.5, scale)
    y = blocks.abs() * inverse
    step = torch.where(y < 2, 0.5, torch.where(y < 4, 1.0, 2.0))
    # torch.round is round-half-even; within a binade of e2m1 an even code is an even multiple.
    magnitude = (torch.round(y / step) * step).clamp_max(6.0)
    return (torch.copysign(magnitude, blocks) * scale).flatten(-2)
