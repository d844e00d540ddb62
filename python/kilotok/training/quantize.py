"""MXFP4 on numpy arrays, by the engine's own codec; needs no PyTorch.

OCP Microscaling Formats v1.0: blocks of 32 columns, e2m1 elements, one e8m0 scale. The format and
its rounding are described in ``docs/numerics.md``.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from kilotok import _core

__all__ = ["BLOCK", "Distortion", "ScaleRule", "dequantize_mxfp4", "quantize_mxfp4"]

#: Columns under one scale.
BLOCK = 32

#: How a block gets its scale: the OCP rule, or the smallest squared error.
ScaleRule = Literal["max", "mse"]


@dataclass(frozen=True)
class Distortion:
    """What rounding changed; sums over elements, so that they add up over matrices.

    Attributes
    ----------
    squared_error, squared_value : float
        Sums of squares of the errors and of the values themselves.
    largest_error : float
        Largest absolute error.
    saturated : int
        Elements beyond the largest magnitude of their block, which became that.
    elements : int
        Elements in all.
    """

    squared_error: float = 0.0
    squared_value: float = 0.0
    largest_error: float = 0.0
    saturated: int = 0
    elements: int = 0

    def __add__(self, other: "Distortion") -> "Distortion":
        return Distortion(
            self.squared_error + other.squared_error,
            self.squared_value + other.squared_value,
            max(self.largest_error, other.largest_error),
            self.saturated + other.saturated,
            self.elements + other.elements,
        )

    @property
    def relative(self) -> float:
        """Root mean square of the errors over that of the values; 0 for a matrix of zeros."""
        if self.squared_value == 0:
            return 0.0
        return float((self.squared_error / self.squared_value) ** 0.5)


def quantize_mxfp4(
    weight: np.ndarray, *, scale: ScaleRule = "max", importance: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, Distortion]:
    """Round a matrix to MXFP4.

    Parameters
    ----------
    weight : float32 array [..., rows, cols]
        Finite values; `cols` a multiple of 32.
    scale : "max" or "mse"
        ``"max"`` is the OCP rule ``2**(floor(log2(amax)) - 2)``, which training rounds with as
        well; ``"mse"`` searches all 255 scales for the smallest squared error.
    importance : float32 array [cols], optional
        Weights of the squared errors of columns for ``"mse"``: with the mean square of what each
        column is multiplied by, the expected error of the product becomes smallest.

    Returns
    -------
    nibbles : uint8 array [..., rows, cols / 2]
        Byte b of a row holds column 2b in its low nibble and 2b + 1 in its high nibble.
    scales : uint8 array [..., rows, cols / 32]
        e8m0: ``2**(s - 127)``.
    distortion : Distortion

    Raises
    ------
    ValueError
        `cols` is not a multiple of 32, or a value is not finite.
    InvalidRequestError
        An unknown `scale`, or an `importance` that is not one finite weight, not negative, per
        column.
    """
    values = np.ascontiguousarray(weight, np.float32)
    if values.ndim == 0 or values.shape[-1] % BLOCK or values.shape[-1] == 0:
        raise ValueError(f"shape is {values.shape}, expected columns in multiples of {BLOCK}")
    if not np.isfinite(values).all():
        raise ValueError("MXFP4 holds finite values only; the weight has NaN or infinity")
    cols = values.shape[-1]
    weights = None
    if importance is not None:
        weights = np.ascontiguousarray(importance, np.float32).tobytes()
    nibbles, scales, sums = _core.mxfp4_encode_matrix(values.tobytes(), cols, scale, weights)
    return (
        np.frombuffer(nibbles, np.uint8).reshape(*values.shape[:-1], cols // 2),
        np.frombuffer(scales, np.uint8).reshape(*values.shape[:-1], cols // BLOCK),
        Distortion(*sums, values.size),
    )


def dequantize_mxfp4(nibbles: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Inverse of `quantize_mxfp4`, exact: float32 [..., rows, cols].

    Raises
    ------
    ValueError
        The shapes do not belong together, or a scale is 255 (NaN in e8m0).
    """
    expected = (*nibbles.shape[:-1], nibbles.shape[-1] * 2 // BLOCK)
    if scales.shape != expected or nibbles.shape[-1] % (BLOCK // 2):
        raise ValueError(f"nibbles {nibbles.shape} need scales {expected}, found {scales.shape}")
    if (scales == 255).any():
        raise ValueError("e8m0 scale 255 is NaN")
    values = _core.mxfp4_decode(nibbles.tobytes(), scales.tobytes())
    return np.frombuffer(values, np.float32).reshape(*nibbles.shape[:-1], nibbles.shape[-1] * 2)
