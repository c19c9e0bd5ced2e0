"""One run on several processes and machines: what the processes have to agree on.

Under `torchrun` every process trains a copy of the network on its own part of each step's samples, and PyTorch's
DistributedDataParallel averages the gradients. Without it there is one process, and every function here is free.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from voxseg.errors import UserError
from voxseg.training.environment import select_device

__all__ = ["SINGLE", "Processes", "join_processes"]

T = TypeVar("T")

PATIENCE = timedelta(hours=12)
"""How long a process waits for another. The first alone checks a data set, some have more cases to prepare than others:
on a thousand cases that takes longer than the ten minutes after which NCCL gives up. If one dies torchrun ends all."""


@dataclass(frozen=True)
class Processes:
    """This process among those of a run.

    Attributes:
        rank: its number, from 0.
        world: how many there are.
    """

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes files and shows progress."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes of a tensor of the same shape in each; gradients flow back to all of them."""
        return tensor if self.world == 1 else _Sum.apply(tensor)

    def totals(self, values: list[float], device: torch.device) -> list[float]:
        """The sum over the processes of each of several numbers."""
        if self.world == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64 if device.type != "mps" else torch.float32, device=device)
        dist.all_reduce(tensor)
        return [float(value) for value in tensor]

    def gather(self, value: T) -> list[T]:
        """The value of each process, in the order of their numbers, in every process."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Returns when all processes have come here."""
        if self.world > 1:
            dist.barrier()

    def leader_does(self, work: Callable[[], T]) -> T:
        """What `work` gives in the first process, in all of them; also a `UserError` that it raises."""
        if self.world == 1:
            return work()
        outcome: list[Any] = [None, None]
        if self.leads:
            try:
                outcome[0] = work()
            except UserError as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        result: T = outcome[0]
        return result

    def share(self, network: nn.Module, all_used: bool) -> nn.Module:
        """The network with gradients that are averaged over the processes.

        Args:
            network: with the same weights in every process.
            all_used: whether every weight takes part in every step's loss.
        """
        if self.world == 1:
            return network
        # Our gradients come in other strides than torch expects of axes of length 1, which costs a copy of a few bytes.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        return nn.parallel.DistributedDataParallel(network, find_unused_parameters=not all_used)


class _Sum(torch.autograd.Function):
    """The sum over the processes, from which every process computes the same loss.

    Backwards, each receives the derivative by its own term from every copy of that loss, `world` times the derivative
    of one; averaging the gradients over the processes, as DistributedDataParallel does, takes the factor out again.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


SINGLE = Processes()


@contextmanager
def join_processes(device: str) -> Iterator[tuple[Processes, torch.device]]:
    """Joins the processes that `torchrun` has started, if it has, for the length of the block.

    Args:
        device: "auto", "cpu", "cuda" or "mps"; with CUDA each process of a machine takes a GPU of its own.

    Raises:
        UserError: there is no such device, or a machine has fewer GPUs than processes.
    """
    place = select_device(device)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield SINGLE, place
        return
    if place.type == "cuda":
        local, found = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= found:
            raise UserError("torchrun", f"starts more processes than the {found} GPUs", f"--nproc-per-node={found}")
        place = torch.device("cuda", local)
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Processes(dist.get_rank(), world), place
    finally:
        dist.destroy_process_group()
