"""The ranks of a run: one process, or the processes that `torchrun` started."""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Ranks", "join_ranks"]


@dataclass(frozen=True)
class Ranks:
    """A process among `world`, and the device it computes on."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this rank writes files and messages."""
        return self.rank == 0

    def sum(self, tensors: list[Tensor]) -> None:
        """Add float32 tensors over ranks, in place, as one message."""
        if self.world == 1:
            return
        flat = torch.cat([t.reshape(-1) for t in tensors])
        dist.all_reduce(flat)
        at = 0
        for tensor in tensors:
            tensor.copy_(flat[at : at + tensor.numel()].view_as(tensor))
            at += tensor.numel()

    def first_says(self, value: float) -> float:
        """The first rank's value, on every rank."""
        if self.world == 1:
            return value
        said = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.broadcast(said, 0)
        return float(said)

    def wait(self) -> None:
        """Until every rank is here."""
        if self.world > 1:
            dist.barrier()

    def leave(self) -> None:
        """End the process group."""
        if self.world > 1:
            dist.destroy_process_group()


def join_ranks(device: str) -> Ranks:
    """Join the process group that `torchrun` announces, if any.

    device : ``auto`` (CUDA where there is any), or a torch device. With CUDA, ranks of one machine
    take its devices in order.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if world == 1:
        return Ranks(0, 1, torch.device(kind))
    chosen = torch.device(kind)
    if chosen.type == "cuda" and chosen.index is None:
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    # The first rank writes answers and taps while the others wait.
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=datetime.timedelta(hours=24))
    return Ranks(dist.get_rank(), world, chosen)
