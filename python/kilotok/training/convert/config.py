"""The configuration and the index that go with converted weights."""

import copy
from collections.abc import Sequence
from typing import Any

from kilotok.training.convert.plan import Experts, Shard
from kilotok.training.quantize import BLOCK

__all__ = ["converted_config", "make_index"]


def converted_config(config: dict[str, Any], experts: Experts) -> dict[str, Any]:
    """`config.json` that announces what the experts are now.

    ``store_dtype: mxfp4`` beside the method that the other tensors already have, as in the FP4
    checkpoints of MiMo; a source without any quantisation gets method ``mxfp4``.
    """
    out = copy.deepcopy(config)
    quantization = dict(out.get("quantization_config") or {})
    if experts == "mxfp4":
        quantization.setdefault("quant_method", "mxfp4")
        quantization |= {"store_dtype": "mxfp4", "mxfp4_block_size": BLOCK}
    else:
        quantization.pop("store_dtype", None)
        quantization.pop("mxfp4_block_size", None)
        if quantization.get("quant_method") == "mxfp4":
            quantization = {}
    if quantization:
        out["quantization_config"] = quantization
    else:
        out.pop("quantization_config", None)
    return out


def make_index(
    metadata: dict[str, Any], shards: Sequence[Shard], experts: Experts
) -> dict[str, Any]:
    """`model.safetensors.index.json` of the output files."""
    weight_map = {tensor.name: shard.name for shard in shards for tensor in shard.written}
    total = sum(tensor.num_bytes for shard in shards for tensor in shard.written)
    kept = {name: value for name, value in metadata.items() if name != "save_format"}
    kept["total_size"] = total
    if experts == "mxfp4":
        kept["save_format"] = "mxfp4"
    return {"metadata": kept, "weight_map": dict(sorted(weight_map.items()))}
