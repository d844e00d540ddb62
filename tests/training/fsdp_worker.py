"""One of two processes that train a sharded model; run by test_qat_fsdp.py through torchrun."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import moe_models
import torch
import torch.distributed as dist
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from kilotok.training.qat import prepare_qat
from kilotok.training.qat_export import export_experts, save_checkpoint

STEPS = 3


def main(family: str, precision: str, out: str) -> None:
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    model = prepare_qat(moe_models.make(family)).train()
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16) if precision == "bf16" else None
    options = {} if policy is None else {"mp_policy": policy}
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (size,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh, **options)
    fully_shard(model, mesh=mesh, **options)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    used = {}
    for step in range(STEPS):
        optimizer.zero_grad()
        ids = moe_models.batch(step)[rank::size]
        if step == STEPS - 1:
            watch(model, used)
        loss = model(ids, labels=ids).loss
        loss.backward()
        if step < STEPS - 1:
            optimizer.step()
    exported = export_experts(model)
    save_checkpoint(model, f"{out}/checkpoint")
    whole = {name: value.full_tensor() for name, value in model.state_dict().items()}
    if rank == 0:
        torch.save({"exported": exported, "used": used, "state": whole}, f"{out}/result.pt")
    else:
        assert not exported
    dist.destroy_process_group()


def watch(model: torch.nn.Module, used: dict) -> None:
    """Keep the rounded weights that a forward pass multiplies by."""
    for name, module in model.named_modules():
        if hasattr(module, "_qat_dims"):
            module.register_forward_hook(
                lambda m, _i, _o, name=name: used.update(
                    {f"{name}.{leaf}": m._qat_round(leaf).detach().clone() for leaf in m._qat_dims}
                )
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
