"""Quantisation-aware training: experts that multiply by what MXFP4 will hold.

One call prepares a model of Hugging Face transformers:

>>> model = prepare_qat(AutoModelForCausalLM.from_pretrained("..."))  # doctest: +SKIP
>>> loss = model(**batch).loss  # experts are rounded on the way  # doctest: +SKIP
>>> save_checkpoint(model, "model-mxfp4")  # doctest: +SKIP

Parameters keep their names, shapes and dtypes, so optimisers, checkpoints and sharding do not
notice. The gradient at the rounded weights goes to the parameters unchanged (straight-through).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from kilotok.errors import InvalidRequestError

__all__ = ["ExpertWeight", "expert_weights", "fake_quant_mxfp4", "prepare_qat", "round_mxfp4"]

_BLOCK = 32
_LINEAR = re.compile(r"(?:.*\.)?experts\.\d+\.(?:gate_proj|up_proj|down_proj|w1|w2|w3)")
_STACKED = ("gate_up_proj", "gate_proj", "up_proj", "down_proj")

Model = TypeVar("Model", bound=nn.Module)


def round_mxfp4(weight: Tensor) -> Tensor:
    """Values of `weight` after rounding to MXFP4 along the last axis; no gradient.

    The same bits as the engine's codec: scale ``2**(floor(log2(amax)) - 2)`` per 32 values (OCP MX
    v1.0), nearest, ties to even, saturating at 6 scales, the sign of zero kept. Values in BF16
    stay exact, since MXFP4 has fewer bits of mantissa and no wider range.
    """
    blocks = weight.float().unflatten(-1, (-1, _BLOCK))
    amax = blocks.abs().amax(-1, keepdim=True)
    exponent = (amax.view(torch.int32) >> 23).sub(2).clamp(0, 254)
    # Powers of two by their bits; 2**-127, the scale of code 0, is half of 2**-126.
    inverse = ((254 - exponent).clamp_min(1) << 23).view(torch.float32)
    scale = (exponent.clamp_min(1) << 23).view(torch.float32)
    scale = torch.where(exponent == 0, scale * 0.5, scale)
    scaled = blocks.abs() * inverse
    step = torch.where(scaled < 2, 0.5, torch.where(scaled < 4, 1.0, 2.0))
    # torch.round is half-to-even, and within a binade of e2m1 an even code is an even multiple.
    magnitude = (torch.round(scaled / step) * step).clamp_max(6.0)
    return (torch.copysign(magnitude, blocks) * scale).flatten(-2).to(weight.dtype)


class _StraightThrough(torch.autograd.Function):
    """Rounds; hands the gradient on as it is.

    Not ``w + (round(w) - w).detach()``: that sum is rounded once more and is no MXFP4 value.
    """

    @staticmethod
    def forward(_ctx: Any, weight: Tensor, dim: int) -> Tensor:
        if dim in (-1, weight.ndim - 1):
            return round_mxfp4(weight)
        return round_mxfp4(weight.transpose(dim, -1)).transpose(dim, -1)

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def fake_quant_mxfp4(weight: Tensor, dim: int = -1) -> Tensor:
    """Round to MXFP4 with the gradient of the identity.

    Parameters
    ----------
    weight : float tensor
        Of any shape; the axis `dim` is a multiple of 32. float32 or bfloat16: float16 cannot hold
        every MXFP4 value.
    dim : int
        The axis that a product sums over: blocks lie along it.

    Returns
    -------
    tensor
        Same shape and dtype: exactly what the engine decodes from ``quantize_mxfp4(weight)``.

    Raises
    ------
    ValueError
        The axis is not a multiple of 32, or the dtype is another one.
    """
    if weight.shape[dim] % _BLOCK:
        raise ValueError(f"axis {dim} of {tuple(weight.shape)} is not a multiple of {_BLOCK}")
    if weight.dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"dtype is {weight.dtype}, expected float32 or bfloat16")
    rounded: Tensor = _StraightThrough.apply(weight, dim)
    return rounded


class _Rounding(nn.Module):
    """Mixed into an expert module: inside of `forward`, reading a weight yields rounded values.

    Outside, it yields the parameter: sharding, initialisation and loading read attributes, too.
    """

    _qat_dims: dict[str, int]
    _qat_cache: dict[str, Tensor] | None
    #: What the last forward pass rounded from: less than the parameter's under mixed precision.
    _qat_dtype: torch.dtype | None

    def _qat_round(self, name: str) -> Tensor:
        weight = self._parameters[name]
        assert weight is not None
        return fake_quant_mxfp4(weight, self._qat_dims[name])

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The wrapped module's, with rounded weights."""
        self._qat_cache = {name: self._qat_round(name) for name in self._qat_dims}
        self._qat_dtype = next(iter(self._qat_cache.values())).dtype
        try:
            return super().forward(*args, **kwargs)
        finally:
            self._qat_cache = None


@dataclass(frozen=True)
class ExpertWeight:
    """One parameter of experts, and where the matrices of the checkpoint are in it.

    Attributes
    ----------
    name : str
        Name of the parameter in the model.
    module : nn.Module
        Its owner.
    leaf : str
        Its name there.
    dim : int
        The axis that products sum over.
    """

    name: str
    module: nn.Module
    leaf: str
    dim: int

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter itself: not rounded, a shard where it is sharded."""
        found = self.module._parameters[self.leaf]
        assert found is not None
        return found

    @property
    def rounded_from(self) -> torch.dtype:
        """The dtype that training rounds from: that of the last forward pass, if there was one."""
        used = getattr(self.module, "_qat_dtype", None)
        return used if used is not None else self.parameter.dtype

    def rounded(self) -> Tensor:
        """What a forward pass multiplies by now, of a parameter that is not sharded."""
        weight = self.parameter.detach().to(self.rounded_from)
        return fake_quant_mxfp4(weight, self.dim)

    def matrices(self, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Checkpoint names, without ``.weight``, and matrices [rows, cols] of a whole parameter."""
        if self.leaf == "weight":
            yield self.name.removesuffix(".weight"), weight
            return
        prefix = self.name.rpartition(".")[0]
        concatenated = getattr(self.module, "is_concatenated", True)
        for expert in range(weight.shape[0]):
            matrix = weight[expert] if self.dim in (-1, 2) else weight[expert].T
            if self.leaf != "gate_up_proj":
                yield f"{prefix}.{expert}.{self.leaf}", matrix
                continue
            half = matrix.shape[0] // 2
            gate, up = (
                (matrix[:half], matrix[half:]) if concatenated else (matrix[0::2], matrix[1::2])
            )
            yield f"{prefix}.{expert}.gate_proj", gate
            yield f"{prefix}.{expert}.up_proj", up


def expert_weights(model: nn.Module) -> list[ExpertWeight]:
    """The weights of routed experts: in a linear module each, or all of a layer in one parameter.

    Shared experts and dense feed-forwards are not among them: checkpoints in MXFP4 keep those in
    another format.
    """
    found = []
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear) and _LINEAR.fullmatch(path):
            found.append(ExpertWeight(f"{path}.weight", module, "weight", -1))
            continue
        own = module._parameters
        stacked = [name for name in _STACKED if (p := own.get(name)) is not None and p.ndim == 3]
        if "down_proj" in stacked and len(stacked) > 1:
            dim = -2 if getattr(module, "is_transposed", False) else -1
            found += [ExpertWeight(f"{path}.{name}", module, name, dim) for name in stacked]
    return found


def prepare_qat(model: Model) -> Model:
    """Turn the routed experts of a model into ones that train with MXFP4 rounding, in place.

    Knows the layouts of transformers: a linear module per expert and matrix, and experts stacked
    in one parameter per layer (MiMo-V2-Flash, Qwen3-MoE, Mixtral, DeepSeek-V3: ``[E, rows,
    cols]``; gpt-oss: transposed, gate and up alternating). Call it before ``fully_shard`` and
    ``torch.compile``.

    Parameters
    ----------
    model : nn.Module
        Weights in float32 or bfloat16.

    Returns
    -------
    nn.Module
        The same object. Its forward passes see rounded experts; ``state_dict``,
        ``named_parameters`` and attributes still yield the parameters themselves.

    Raises
    ------
    InvalidRequestError
        There are no routed experts, or a matrix does not consist of blocks of 32.
    """
    weights = expert_weights(model)
    if not weights:
        raise InvalidRequestError("model", f"{type(model).__name__} has no routed experts")
    for weight in weights:
        size = weight.parameter.shape[weight.dim]
        if size % _BLOCK:
            raise InvalidRequestError(
                "model", f"{weight.name}: {size} input features are not a multiple of {_BLOCK}"
            )
    for weight in weights:
        _wrap(weight)
    return model


def _wrap(weight: ExpertWeight) -> None:
    module = weight.module
    if not isinstance(module, _Rounding):
        module.__class__ = _rounding_class(type(module))
        module._qat_dims = {}
        module._qat_cache = None
        module._qat_dtype = None
    module._qat_dims[weight.leaf] = weight.dim


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {}


def _rounding_class(base: type[nn.Module]) -> type[nn.Module]:
    if base not in _CLASSES:
        leaves = ("weight",) if issubclass(base, nn.Linear) else _STACKED
        members: dict[str, Any] = {name: _reader(name) for name in leaves}
        members["__module__"] = base.__module__
        _CLASSES[base] = type(f"Qat{base.__name__}", (_Rounding, base), members)
    return _CLASSES[base]


def _reader(name: str) -> property:
    def read(self: _Rounding) -> Tensor:
        cache = self._qat_cache
        if cache is not None and name in cache:
            return cache[name]
        return nn.Module.__getattr__(self, name)

    return property(read)
