"""FP8-e4m3 weights with one float32 scale per 128 x 128 block, and the fused-qkv chunk rule.

Scales are powers of two: the product e4m3 x scale then is exact in BF16, so the weights the
trainer multiplies by are the weights an engine reads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

BLOCK = 128
_MAX = 448.0


def quantize_fp8(weight: torch.Tensor, chunks: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Round a matrix to FP8 blocks.

    Parameters
    ----------
    weight : float tensor [rows, cols]
    chunks : int
        The rows are `chunks` equal parts with a scale grid of their own each (fused qkv).

    Returns
    -------
    values : float8_e4m3fn [rows, cols]
    scale_inv : float32 [chunks * ceil(rows / chunks / 128), ceil(cols / 128)]
        Multiply by it to get the weight back.
    """
    rows, cols = weight.shape
    per = rows // chunks
    if per * chunks != rows:
        raise ValueError(f"{rows} rows do not split into {chunks} chunks")
    grid_r, grid_c = -(-per // BLOCK), -(-cols // BLOCK)
    w = weight.float().view(chunks, per, cols)
    w = F.pad(w, (0, grid_c * BLOCK - cols, 0, grid_r * BLOCK - per))
    tiles = w.view(chunks, grid_r, BLOCK, grid_c, BLOCK)
    amax = tiles.abs().amax((2, 4), keepdim=True)
    mantissa, exponent = torch.frexp(amax / _MAX)
    exponent = torch.where(mantissa > 0.5, exponent, exponent - 1)
    scale = torch.where(amax > 0, torch.exp2(exponent.float()), torch.ones_like(amax))
    values = (tiles / scale).to(torch.float8_e4m3fn)
    values = values.view(chunks, grid_r * BLOCK, grid_c * BLOCK)[:, :per, :cols]
    return values.reshape(rows, cols), scale.view(chunks * grid_r, grid_c)


def dequantize_fp8(values: torch.Tensor, scale_inv: torch.Tensor, chunks: int = 1) -> torch.Tensor:
    """Inverse of :func:`quantize_fp8`; float32 [rows, cols]."""
    rows, cols = values.shape
    per = rows // chunks
    grid = scale_inv.view(chunks, -1, scale_inv.shape[1])
    row = torch.arange(per, device=values.device) // BLOCK
    col = torch.arange(cols, device=values.device) // BLOCK
    scale = grid[:, row][:, :, col].reshape(rows, cols)
    return values.float() * scale


def round_fp8(weight: torch.Tensor, chunks: int = 1) -> torch.Tensor:
    """`dequantize_fp8(*quantize_fp8(weight))`: what the engine will multiply by."""
    return dequantize_fp8(*quantize_fp8(weight, chunks), chunks)
