"""How much memory there is."""

import os
from pathlib import Path

import torch


def available_memory(device: torch.device) -> int:
    """Bytes of memory that are free on a device, or to this process's control group."""
    if device.type == "cuda":
        # What the allocator holds without using it is free for us, though the device counts it as taken.
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    information = Path("/proc/meminfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    limit, used = _control_group("memory.max"), _control_group("memory.current")
    return free if limit is None or used is None else min(free, limit - used)


def total_memory(device: torch.device) -> int:
    """Bytes of memory that a device, or this process's control group, has in all."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _control_group("memory.max")
    return total if limit is None else min(total, limit)


def _control_group(name: str) -> int | None:
    file = Path("/sys/fs/cgroup") / name
    text = file.read_text().strip() if file.is_file() else ""
    return int(text) if text.isdigit() else None
