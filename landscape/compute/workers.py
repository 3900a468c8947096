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


def each(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    device: torch.device,
    *,
    at_once: int | None = None,
    one_core: bool = False,
) -> Iterator[Result]:
    """`function` of every item, in their order; on a CPU as many at a time as there are cores, one core each.

    Parameters
    ----------
    function
        Called from several threads: context managers that belong to a thread (grad mode, function modes) must be
        entered inside it.
    items
        What does not fill the cores is done one after the other, all cores on each.
    device
        Where `function` computes; anything but a CPU gets one item at a time.
    at_once
        Items at a time, at most (for their memory); torch's number of threads unless given.
    one_core
        Those that do not fill the cores get one core each, too: an item's bits then do not depend on how many there
        are beside it.
    """
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    together = 0
    if threads > 1 and (at_once is None or at_once >= threads):
        together = len(items) if one_core else len(items) - len(items) % threads
    if together:
        yield from _shared_out(function, items[:together], threads)
    for item in items[together:]:
        yield function(item)


def _shared_out(function: Callable[[Item], Result], items: Sequence[Item], threads: int) -> Iterator[Result]:
    pool = _pool(threads)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            # Not all at once: results that nobody has taken yet need memory.
            if len(waiting) == 2 * threads:
                yield waiting.popleft().result()
            waiting.append(pool.submit(function, item))
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        # Those that run hold settings of all threads, which the caller is about to put back.
        wait(waiting)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that use one core each; the caller's own number stays what it is."""

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
