"""Permutations of a network's channels that leave what it computes as it is."""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from landscape.compute.randomness import generator
from landscape.connectivity import axes, tracing
from landscape.connectivity.axes import Axis

# By axis: (n,) for one permutation, (blocks, n) for one in each block of the axis that it stands in.
Permutations = dict[Axis, Tensor]


@dataclass(frozen=True)
class Block:
    """A part of a tensor every dimension of which is a product of axes.

    Attributes
    ----------
    name
        Of the parameter or buffer.
    slices
        Which part of it.
    factors
        Axes of its dimensions, row-major.
    """

    name: str
    slices: tuple[slice, ...]
    factors: tuple[Axis, ...]

    def of(self, tensor: Tensor) -> Tensor:
        """The part of a tensor, a dimension for each axis."""
        return tensor[self.slices].reshape([axis.size for axis in self.factors])


class Symmetries:
    """The permutations of channels under which a network computes the same.

    A hidden channel is one row of the weights that make it and one column of those that read it; batch norm, biases and
    everything elementwise goes along. Channels that meet in a sum, as along the shortcuts of a residual network, are
    permuted alike. Heads of attention are permuted as blocks, inside each one queries with keys and, apart from them,
    values with the output projection; so are the groups of grouped convolutions.

    Parameters
    ----------
    network
        In evaluation mode; followed through one pass.
    run
        Passes a few examples through it.

    Attributes
    ----------
    blocks
        Parts of all parameters and buffers.
    groups
        Axes that may be permuted.
    """

    def __init__(self, network: nn.Module, run: Callable[[], Any]) -> None:
        self.blocks: list[Block] = []
        for name, label in tracing.labels(network, run).items():
            segments = []
            for term in label:
                start, parts = 0, []
                for factors in axes.resolve(term):
                    size = math.prod(axis.size for axis in factors)
                    parts.append((slice(start, start + size), factors))
                    start += size
                segments.append(parts)
            for chosen in itertools.product(*segments):
                factors = tuple(axis for _, part in chosen for axis in part)
                self.blocks.append(Block(name, tuple(entries for entries, _ in chosen), factors))
        free = [axis for block in self.blocks for axis in block.factors if not axis.fixed]
        self.groups: list[Axis] = list(dict.fromkeys(free))

    def __repr__(self) -> str:
        inside = sum(axes.parent(axis) is not None for axis in self.groups)
        return f"Symmetries({len(self.groups) - inside} groups of channels, {inside} inside the blocks of another)"

    def identity(self) -> Permutations:
        """Everything where it is."""
        permutations = {}
        for axis in self.groups:
            above = axes.parent(axis)
            order = torch.arange(axis.size)
            permutations[axis] = order if above is None else order.expand(above.size, -1).clone()
        return permutations

    def random(self, seed: int = 0) -> Permutations:
        """Uniformly random permutations."""
        permutations = self.identity()
        for number, order in enumerate(permutations.values()):
            rows = order.view(-1, order.shape[-1])
            source = generator(seed, "permutation", number)
            for row in rows:
                row.copy_(row[torch.randperm(len(row), generator=source)])
        return permutations

    def permuted(self, tensors: Mapping[str, Tensor], permutations: Permutations) -> dict[str, Tensor]:
        """Tensors by name, permuted; what the network does not hold is handed on."""
        permuted = {name: tensor.clone() for name, tensor in tensors.items()}
        for block in self.blocks:
            if block.name in tensors and any(axis in permutations for axis in block.factors):
                part = permute(block.of(tensors[block.name]), block.factors, permutations)
                target = permuted[block.name][block.slices]
                target.copy_(part.reshape(target.shape))
        return permuted

    def apply(self, network: nn.Module, permutations: Permutations) -> None:
        """Permute a network in place; it computes the same as before."""
        tensors = dict(network.named_parameters()) | dict(network.named_buffers())
        with torch.no_grad():
            for name, value in self.permuted({n: t.detach() for n, t in tensors.items()}, permutations).items():
                tensors[name].copy_(value)


def permute(part: Tensor, factors: tuple[Axis, ...], permutations: Permutations) -> Tensor:
    """A tensor with a dimension for each axis, entry i taken from where the permutation says."""
    orders = [(dim, permutations[axis].to(part.device)) for dim, axis in enumerate(factors) if axis in permutations]
    for dim, order in orders:
        if order.dim() == 1:
            part = part.index_select(dim, order)
    for dim, order in orders:
        if order.dim() == 2:
            above = holder(factors, dim)
            shape = [1] * part.dim()
            shape[above], shape[dim] = order.shape
            # Dimensions of the index stand as those of the part: block before channel, or behind it.
            index = order if above < dim else order.T
            part = part.gather(dim, index.reshape(shape).expand(part.shape))
    return part


def holder(factors: tuple[Axis, ...], dim: int) -> int:
    """The dimension of the axis whose blocks hold the axis of a dimension: the nearest before it, else any."""
    above = axes.parent(factors[dim])
    dims = [other for other, axis in enumerate(factors) if axis is above]
    before = [other for other in dims if other < dim]
    return before[-1] if before else dims[0]
