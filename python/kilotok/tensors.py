"""Tensors of numpy or torch as the buffers that the extension module reads."""

from collections.abc import Mapping
from typing import Any

from kilotok.errors import InvalidRequestError

__all__ = ["RawTensor", "raw_tensors"]

#: safetensors name of the dtype, shape, and an object with the buffer protocol over the bytes.
RawTensor = tuple[str, tuple[int, ...], Any]

_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e8m0fnu": "U8",
    "uint8": "U8",
    "uint16": "U16",
    "int8": "I8",
    "int32": "I32",
    "int64": "I64",
}


def raw_tensors(tensors: Mapping[str, Any]) -> dict[str, RawTensor]:
    """Describe tensors without copying where they are contiguous and in host memory.

    Parameters
    ----------
    tensors : mapping of str to numpy.ndarray, torch.Tensor or (str, numpy.ndarray)
        Values named as in a checkpoint. A pair names the stored type where numpy has none:
        ``("BF16", uint16 array)`` or ``("F8_E4M3", uint8 array)``. They are read in place: do not
        change them while the engine lives.

    Raises
    ------
    InvalidRequestError
        A value is neither kind of tensor, or its dtype has no name in safetensors.
    """
    return {name: _raw(name, tensor) for name, tensor in tensors.items()}


def _raw(name: str, tensor: Any) -> RawTensor:
    if isinstance(tensor, tuple) and len(tensor) == 2 and isinstance(tensor[0], str):
        stored, array = tensor
        _, shape, data = _raw(name, array)
        return stored, shape, data
    kind = type(tensor)
    dtype = str(getattr(tensor, "dtype", "")).removeprefix("torch.")
    if dtype not in _DTYPES:
        raise InvalidRequestError(
            "tensors",
            f"{name} is {kind.__name__} of dtype {dtype or None!r}, expected a numpy "
            f"array or torch tensor of {', '.join(_DTYPES)}",
        )
    shape = tuple(int(size) for size in tensor.shape)
    if kind.__module__.partition(".")[0] == "torch" or hasattr(tensor, "detach"):
        return _DTYPES[dtype], shape, _torch_bytes(tensor)
    import numpy as np

    flat = np.ascontiguousarray(tensor).reshape(-1)
    return _DTYPES[dtype], shape, flat.view(np.uint8)


def _torch_bytes(tensor: Any) -> Any:
    # numpy knows neither bf16 nor fp8, so the bytes are viewed untyped.
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy()
