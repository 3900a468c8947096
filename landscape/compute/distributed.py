"""One command on one process or, under ``torchrun``, on many: torch.distributed is the engine.

Sums over data shards are one all-reduce of a flat vector; independent pieces (grid cells, mini-batches) are shared out
round-robin. Without torchrun every function here is the single-process identity.
"""

import os
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.distributed

Item = TypeVar("Item")


def start(device: torch.device) -> torch.device:
    """Join the process group that torchrun announces, if any, and return the device of this process.

    nccl on GPUs, gloo on CPUs. With several GPUs, process *i* of a machine takes GPU *i*.
    """
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


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


def share(items: Sequence[Item]) -> Sequence[Item]:
    """The items that fall to this process, round-robin."""
    return items[rank() :: world_size()]


def shard(length: int) -> tuple[int, int]:
    """Start and stop of this process's contiguous share of `length` examples; shares differ by at most one."""
    size, place = world_size(), rank()
    return length * place // size, length * (place + 1) // size
