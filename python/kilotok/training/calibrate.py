"""Mean squares of what expert matrices are multiplied by, for ``kilotok convert --calibrate``."""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kilotok.errors import InvalidRequestError
from kilotok.training.qat import ExpertWeight, expert_weights

__all__ = ["activation_moments", "save_moments"]


@torch.no_grad()
def activation_moments(
    model: Any, batches: Iterable[Mapping[str, Any] | Tensor]
) -> dict[str, Tensor]:
    """Run a model over text and take the second moments of the inputs of its expert matrices.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Not prepared for quantisation-aware training. Its experts run one by one meanwhile.
    batches : iterable of mapping or tensor
        Keyword arguments of the model, or token ids [batch, length].

    Returns
    -------
    dict of str to float32 tensor
        ``PREFIX.experts.E.gate_proj`` and so on: mean square of every input column, [cols], over
        the tokens that were routed to the expert. Experts that no token reached have no entry;
        `convert` rounds those without weights.

    Raises
    ------
    InvalidRequestError
        The model has no routed experts, or is prepared for quantisation-aware training.
    """
    weights = expert_weights(model)
    if not weights:
        raise InvalidRequestError("model", f"{type(model).__name__} has no routed experts")
    if any(hasattr(weight.module, "_qat_dims") for weight in weights):
        raise InvalidRequestError("model", "take moments before `prepare_qat`")
    watch = _Watch(weights)
    config: Any = getattr(model, "config", None)
    before = getattr(config, "_experts_implementation", None)
    if before is not None:
        config._experts_implementation = "eager"
    try:
        with watch:
            for batch in batches:
                model(**batch) if isinstance(batch, Mapping) else model(batch)
    finally:
        if before is not None:
            config._experts_implementation = before
    return watch.moments()


def save_moments(moments: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Write moments as the safetensors file that ``--calibrate`` takes."""
    from safetensors.torch import save_file

    save_file({name: value.float().cpu().contiguous() for name, value in moments.items()}, path)


class _Watch(TorchFunctionMode):
    """Sees every matrix product whose second operand is (a part of) an expert weight."""

    def __init__(self, weights: list[ExpertWeight]) -> None:
        super().__init__()
        self._weights = {weight.parameter.data_ptr(): weight for weight in weights}
        self._sums: dict[tuple[str, int], tuple[Tensor, int]] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        products = (nn.functional.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__)
        if func in products and len(args) > 1 and isinstance(args[1], Tensor):
            self._see(args[0], args[1])
        return func(*args, **(kwargs or {}))

    def _see(self, inputs: Tensor, operand: Tensor) -> None:
        whole = operand if operand._base is None else operand._base
        weight = self._weights.get(whole.data_ptr())
        if weight is None or whole.shape != weight.parameter.shape:
            return
        expert = 0
        if whole.ndim == 3:
            expert = int(operand.storage_offset() - whole.storage_offset()) // whole.stride(0)
        rows = inputs.detach().float().reshape(-1, inputs.shape[-1])
        if rows.shape[0] == 0:
            return
        total, count = self._sums.get((weight.name, expert), (torch.zeros_like(rows[0]), 0))
        self._sums[weight.name, expert] = (total + rows.square().sum(0), count + rows.shape[0])

    def moments(self) -> dict[str, Tensor]:
        """Means by matrix name."""
        out = {}
        names = {weight.name: weight for weight in self._weights.values()}
        for (name, expert), (total, count) in self._sums.items():
            weight = names[name]
            mean = total / count
            if weight.leaf == "weight":
                out[name.removesuffix(".weight")] = mean
                continue
            prefix = name.rpartition(".")[0]
            parts = ("gate_proj", "up_proj") if weight.leaf == "gate_up_proj" else (weight.leaf,)
            out |= {f"{prefix}.{expert}.{part}": mean.clone() for part in parts}
        return out
