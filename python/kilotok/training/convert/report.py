"""What a conversion did to the experts, layer by layer."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from kilotok.training.quantize import Distortion

__all__ = ["LayerError", "Report", "make_report"]

_LAYER = re.compile(r"layers\.(\d+)\.")


@dataclass(frozen=True)
class LayerError:
    """Error of one kind of matrix over all experts of a layer.

    Attributes
    ----------
    layer : str
        Number of the layer, or ``""`` where the names have none.
    part : str
        ``gate_proj``, ``up_proj`` or ``down_proj``, as the checkpoint calls it.
    matrices, elements : int
        How many there are.
    relative_error : float
        Root mean square of the errors over that of the values.
    snr_db : float or None
        The same in decibels; None where nothing changed.
    largest_error : float
        Largest absolute error.
    saturated : float
        Share of elements beyond the largest magnitude of their block.
    """

    layer: str
    part: str
    matrices: int
    elements: int
    relative_error: float
    snr_db: float | None
    largest_error: float
    saturated: float


@dataclass(frozen=True)
class Report:
    """Outcome of a conversion.

    Attributes
    ----------
    options : dict
        What was asked for.
    source_bytes, written_bytes : int
        Weights before and after.
    total : LayerError
        Over all experts.
    layers : list of LayerError
    """

    options: dict[str, Any]
    source_bytes: int
    written_bytes: int
    total: LayerError
    layers: list[LayerError]

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it."""
        return asdict(self)


def make_report(
    matrices: Mapping[str, Distortion],
    options: dict[str, Any],
    source_bytes: int,
    written_bytes: int,
) -> Report:
    """Sum the distortions of matrices, by layer and part."""
    groups: dict[tuple[str, str], list[Distortion]] = {}
    for name, distortion in matrices.items():
        found = _LAYER.search(name)
        key = (found[1] if found else "", name.rpartition(".")[2])
        groups.setdefault(key, []).append(distortion)
    order = sorted(groups, key=lambda key: (key[0].zfill(9), key[1]))
    return Report(
        options,
        source_bytes,
        written_bytes,
        _error("", "all", list(matrices.values())),
        [_error(layer, part, groups[layer, part]) for layer, part in order],
    )


def _error(layer: str, part: str, matrices: list[Distortion]) -> LayerError:
    total = sum(matrices, Distortion())
    relative = total.relative
    return LayerError(
        layer=layer,
        part=part,
        matrices=len(matrices),
        elements=total.elements,
        relative_error=relative,
        snr_db=-20 * math.log10(relative) if relative > 0 else None,
        largest_error=total.largest_error,
        saturated=total.saturated / total.elements if total.elements else 0.0,
    )
