"""Micro-batches shared out over the cores: each on one core, several at a time.

A micro-batch that fits the cache is too small to keep several cores busy in each of its operations: they wait for one
another at every convolution's end. One core a micro-batch waits for nobody: on 2 cores, passes and curvature products
of a ResNet-20 take up to a seventh less time, more on a busy machine (`benchmarks/surface.py`).
"""

import copy
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch
from torch import nn

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores(device: torch.device) -> int:
    """How many items `each` computes at a time on a device."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def each(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    device: torch.device,
    *,
    at_once: int | None = None,
    one_core: int | None = None,
) -> Iterator[Result]:
    """`function` of every item, in their order; on a CPU as many at a time as there are cores, one core each.

    Parameters
    ----------
    function
        Called from several threads: context managers that belong to a thread (grad mode, function modes) must be
        entered inside it.
    items
        Those that do not get a core each are done one after the other, all cores on each.
    device
        Where `function` computes; anything but a CPU gets one item at a time.
    at_once
        Items at a time, at most (for their memory). It changes no bits.
    one_core
        How many of the first items get a core each; those that fill the cores unless given. All of them, where an
        item's bits must not depend on how many there are beside it.
    """
    threads = cores(device)
    together = len(items) - len(items) % threads if one_core is None else min(one_core, len(items))
    if threads > 1 and together:
        yield from _shared_out(function, items[:together], threads, at_once)
    else:
        together = 0
    for item in items[together:]:
        yield function(item)


def _shared_out(
    function: Callable[[Item], Result], items: Sequence[Item], threads: int, at_once: int | None
) -> Iterator[Result]:
    pool = _pool(threads)
    waiting: deque[Future[Result]] = deque()
    # Not all at once: results that nobody has taken yet need memory.
    most = 2 * threads if at_once is None or at_once >= threads else max(at_once, 1)
    try:
        for item in items:
            if len(waiting) == most:
                yield waiting.popleft().result()
            waiting.append(pool.submit(function, item))
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        # Those that run hold settings of all threads, which the caller is about to put back.
        wait(waiting)


_making = threading.Lock()


def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that use one core each; the caller's own number stays what it is."""
    with _making:
        return _new_pool(threads)


@cache
def _new_pool(threads: int) -> ThreadPoolExecutor:
    def alone() -> None:
        # A thread takes the default when it first asks: had it not asked yet, it would take it over this setting.
        torch.get_num_threads()
        torch.set_num_threads(1)

    pool = ThreadPoolExecutor(threads, "landscape", initializer=alone)
    everyone = threading.Barrier(threads)
    for started in [pool.submit(everyone.wait) for _ in range(threads)]:
        started.result()
    # A thread that sets its number sets the default of threads to come as well.
    torch.set_num_threads(threads)
    return pool


class Replicas:
    """Copies of a network that share its tensors, made as they are needed: each is used by one thread at a time.

    Modules may keep things on themselves during a forward pass; `torch.func.functional_call` swaps their parameters.

    Parameters
    ----------
    network
        The first of them.
    shared
        What else the copies share.
    """

    def __init__(self, network: nn.Module, shared: Iterable[object] = ()) -> None:
        self._shared = [*network.parameters(), *network.buffers(), *shared]
        # Never run: while another thread runs the network, its parameters may be swapped for others.
        self._template = self._copy(network)
        self._copying = threading.Lock()
        self._free: queue.SimpleQueue[nn.Module] = queue.SimpleQueue()
        self._free.put(network)

    def _copy(self, network: nn.Module) -> nn.Module:
        return copy.deepcopy(network, {id(thing): thing for thing in self._shared})

    def apart(self) -> nn.Module:
        """A copy of the network with tensors of its own."""
        with self._copying:
            return copy.deepcopy(self._template)

    @contextmanager
    def one(self) -> Iterator[nn.Module]:
        """A network that no other thread uses meanwhile."""
        try:
            network = self._free.get_nowait()
        except queue.Empty:
            with self._copying:
                network = self._copy(self._template)
        try:
            yield network
        finally:
            self._free.put(network)
