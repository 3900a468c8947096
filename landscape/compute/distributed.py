"""One command on one process or, under ``torchrun``, on many: torch.distributed is the engine.

Sums over data shards are one all-reduce of a flat vector; independent pieces (grid cells, mini-batches) are shared out
round-robin. Without torchrun every function here is the single-process identity.
"""

import os
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.distributed

from landscape.errors import LandscapeError

Item = TypeVar("Item")


def start(device: torch.device) -> torch.device:
    """Join the process group that torchrun announces, if any, and return the device of this process.

    nccl on GPUs, gloo on CPUs. With several GPUs, process *i* of a machine takes GPU *i*.

    Raises
    ------
    LandscapeError
        When what the environment says of the group is incomplete or no number.
    """
    if _announced("WORLD_SIZE", 1) == 1:
        return device
    if device.type == "cuda":
        device = torch.device("cuda", _announced("LOCAL_RANK", 0))
        torch.cuda.set_device(device)
    if not torch.distributed.is_initialized():
        try:
            torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        except (ValueError, RuntimeError) as error:
            raise LandscapeError(
                f"cannot join the {os.environ['WORLD_SIZE']} processes that WORLD_SIZE announces "
                f"({str(error).splitlines()[0]}): start them with torchrun, or unset WORLD_SIZE"
            ) from None
    return device


def _announced(name: str, default: int) -> int:
    """A number that torchrun puts into the environment."""
    value = os.environ.get(name) or str(default)
    if not value.isdecimal() or (name == "WORLD_SIZE" and int(value) < 1):
        raise LandscapeError(f"the environment's {name} is {value!r}, not a number: start with torchrun, or unset it")
    return int(value)


def stop() -> None:
    """Leave the process group, if any."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def world_size() -> int:
    """Number of processes."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def is_main() -> bool:
    """Whether this process is the one that prints and writes."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        torch.distributed.barrier()


def all_reduce(tensor: torch.Tensor) -> torch.Tensor:
    """Sum `tensor` over the processes, in place, and return it."""
    if world_size() > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


def smallest(value: int, device: torch.device) -> int:
    """The smallest of a number that each process has its own of."""
    tensor = torch.tensor(value, device=device)
    if world_size() > 1:
        torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MIN)
    return int(tensor)


def partition(items: Sequence[Item]) -> Sequence[Item]:
    """The items that fall to this process, round-robin."""
    return items[rank() :: world_size()]


def shard(length: int) -> tuple[int, int]:
    """Start and stop of this process's contiguous part of `length` examples; parts differ by at most one."""
    size, number = world_size(), rank()
    return length * number // size, length * (number + 1) // size
