"""Batch-norm statistics measured anew, at any point of weight space."""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from landscape.compute import workers
from landscape.compute.masks import Masks
from landscape.data.examples import Tree
from landscape.objective import folding
from landscape.objective.losses import called
from landscape.objective.network import in_precision

_STATISTICS = ("running_mean", "running_var")


def tracked(module: nn.Module) -> dict[str, Tensor]:
    """Every running statistic of a network's batch norms, by the name of its buffer."""
    return {
        f"{name}.{kind}": getattr(norm, kind)
        for name, norm in folding.batch_norms(module).items()
        for kind in _STATISTICS
        if getattr(norm, kind) is not None
    }


class Recalibration:
    """Measures running statistics: the mean over batches, each weighted with the number of its examples.

    So does stochastic weight averaging (Izmailov et al. 2018).

    Nothing is changed by measuring, so that any number of threads may.

    Parameters
    ----------
    network
        The network before its batch norms are folded; copied.
    """

    def __init__(self, network: nn.Module) -> None:
        network = copy.deepcopy(network).requires_grad_(False)
        for norm in folding.batch_norms(network).values():
            if norm.running_mean is not None:
                norm.train()
        self._replicas = workers.Replicas(network)
        self._before = {name: _initial(name, buffer) for name, buffer in network.named_buffers() if _counts(name)}
        self._names = list(tracked(network))

    def in_double(self) -> "Recalibration":
        """The same in float64; copies the network."""
        return Recalibration(in_precision(self._replicas.apart(), torch.float64))

    @torch.no_grad()
    def statistics(
        self,
        parameters: Mapping[str, Tensor],
        batches: Iterable[tuple[int, int, Tree]],
        masks: Callable[[], Masks],
        *,
        sample: int = 0,
    ) -> dict[str, Tensor]:
        """Statistics by buffer name, at parameters by name.

        Parameters
        ----------
        parameters
            Those not named stay the network's own.
        batches
            Numbers of the first example of each batch and of the one after its last, and the batch.
        masks, sample
            The dropout masks, and which draw of them.
        """
        buffers = {name: value.clone() for name, value in self._before.items()}
        seen: Counter[str] = Counter()

        def weigh(name: str, count: int) -> Callable[..., None]:
            # In every call: a norm that is called twice per pass takes the mean over both.
            def hook(norm: Any, inputs: Any) -> None:
                seen[name] += count
                norm.momentum = count / seen[name]

            return hook

        for first, last, batch in batches:
            with masks() as drawn, self._replicas.one() as network, ExitStack() as hooks:
                for name, norm in folding.batch_norms(network).items():
                    hooks.enter_context(norm.register_forward_pre_hook(weigh(name, last - first)))
                drawn.address(first_example=first, sample=sample, examples=last - first)
                called(partial(_run, network, {**parameters, **buffers}), batch)
        return {name: buffers[name] for name in self._names}


def _run(network: nn.Module, tensors: dict[str, Tensor], *given: Any, **named: Any) -> Any:
    return functional_call(network, tensors, given, named)


def _counts(name: str) -> bool:
    return name.rpartition(".")[2] in (*_STATISTICS, "num_batches_tracked")


def _initial(name: str, buffer: Tensor) -> Tensor:
    """What a statistic is before the first batch."""
    return torch.ones_like(buffer) if name.endswith("running_var") else torch.zeros_like(buffer)
