"""Weight matching: the permutation of one network's channels that brings its weights nearest to another's."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from landscape.compute.randomness import numpy_generator
from landscape.connectivity import axes
from landscape.connectivity.axes import Axis
from landscape.connectivity.permutations import Block, Permutations, Symmetries, holder

# Each sweep raises the objective, which is bounded; a few dozen sweeps are the most that was seen.
_SWEEPS = 200
# Gains below this fraction of the objective's scale are rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Match:
    """The result of weight matching.

    Attributes
    ----------
    permutations
        Of the second network's channels.
    objective
        Inner product of both networks' weights at the start and behind each accepted assignment; it never falls.
    sweeps
        Over all groups of channels.
    """

    permutations: Permutations
    objective: tuple[float, ...]
    sweeps: int


@dataclass(frozen=True)
class _Group:
    """Channels that one assignment permutes: of an axis, and of those inside its blocks."""

    axis: Axis
    inside: tuple[Axis, ...]
    blocks: tuple[Block, ...]


def match(symmetries: Symmetries, target: Mapping[str, Tensor], moved: Mapping[str, Tensor], *, seed: int = 0) -> Match:
    r"""Permutations of one network's channels that maximise the inner product with another's weights.

    .. math:: \max_\pi \langle w_A, \pi(w_B) \rangle = \min_\pi \lVert w_A - \pi(w_B) \rVert^2

    By coordinate descent, group by group in random order (Ainsworth et al. 2023, Git Re-Basin, arXiv 2209.04836,
    algorithm 1), each group's assignment solved exactly by SciPy's ``linear_sum_assignment``. Heads and what is inside
    them are assigned together: the value of a pair of heads is that of the best assignments inside. An assignment that
    does not raise the objective, as may be where both sides of a weight are permuted alike, is not taken. The optimum
    is a local one: finding the global one is NP-hard. Of two descents the better is taken: from the networks as they
    are, and from a first assignment layer by layer, which in a deep chain is the better start.

    Parameters
    ----------
    symmetries
        Of the networks.
    target, moved
        Parameters by name, of the network that stays and the one that is permuted.
    seed
        Of the order of the groups.
    """
    wanted = {name: tensor.detach().double() for name, tensor in target.items()}
    current = {name: tensor.detach().double() for name, tensor in moved.items()}
    groups = _groups(symmetries, set(wanted))
    starts = [symmetries.identity(), _forward(symmetries, groups, wanted, current)]
    descents = [_descent(symmetries, groups, start, wanted, current, seed) for start in starts]
    return max(descents, key=lambda each: each.objective[-1])


def _forward(
    symmetries: Symmetries, groups: Sequence[_Group], target: Mapping[str, Tensor], moved: Mapping[str, Tensor]
) -> Permutations:
    """Each group once, from the inputs on, by those weights alone whose other side is assigned already."""
    permutations, current = symmetries.identity(), dict(moved)
    unsettled = set(symmetries.groups)
    for group in groups:
        unsettled -= {group.axis, *group.inside}
        known = tuple(block for block in group.blocks if not unsettled & set(block.factors))
        step = _assigned(dataclasses.replace(group, blocks=known or group.blocks), target, current)
        current |= symmetries.permuted({block.name: current[block.name] for block in group.blocks}, step)
        _compose(permutations, group, step)
    return permutations


def _descent(
    symmetries: Symmetries,
    groups: Sequence[_Group],
    start: Permutations,
    target: Mapping[str, Tensor],
    moved: Mapping[str, Tensor],
    seed: int,
) -> Match:
    """Assignments that raise the objective, until none does."""
    permutations, current = dict(start), symmetries.permuted(moved, start)
    total = sum(float((target[name] * current[name]).sum()) for name in target)
    scale = sum(float(target[name].norm() * current[name].norm()) for name in target)
    history = [total]
    order = numpy_generator(seed, "weight matching")
    sweeps, improved = 0, True
    while improved and sweeps < _SWEEPS:
        sweeps, improved = sweeps + 1, False
        for number in order.permutation(len(groups)):
            group = groups[number]
            step = _assigned(group, target, current)
            names = {block.name for block in group.blocks}
            after = symmetries.permuted({name: current[name] for name in names}, step)
            gain = sum(float((target[name] * (after[name] - current[name])).sum()) for name in names)
            if gain > _ROUNDING * scale:
                current |= after
                _compose(permutations, group, step)
                history.append(history[-1] + gain)
                improved = True
    return Match(permutations, tuple(history), sweeps)


def _groups(symmetries: Symmetries, names: set[str]) -> list[_Group]:
    tops: dict[Axis, list[Axis]] = {}
    for axis in symmetries.groups:
        above = axes.parent(axis)
        if above is None:
            tops.setdefault(axis, [])
        else:
            tops.setdefault(above, []).append(axis)
    groups = []
    for axis, inside in tops.items():
        members = {axis, *inside}
        blocks = tuple(b for b in symmetries.blocks if b.name in names and members & set(b.factors))
        if blocks:
            groups.append(_Group(axis, tuple(inside), blocks))
    return groups


def _assigned(group: _Group, target: Mapping[str, Tensor], moved: Mapping[str, Tensor]) -> Permutations:
    """The best permutation of a group, everything else and other occurrences in the same tensor held."""
    size = group.axis.size
    score = np.zeros((size, size))
    inner: dict[Axis, np.ndarray] = {axis: np.zeros((size, axis.size, size, axis.size)) for axis in group.inside}
    for block in group.blocks:
        one, other = block.of(target[block.name]), block.of(moved[block.name])
        held = {holder(block.factors, dim): dim for dim, axis in enumerate(block.factors) if axis in inner}
        for dim, axis in enumerate(block.factors):
            if axis in inner:
                dims = [holder(block.factors, dim), dim]
                inner[axis] += _products(one, other, dims).reshape(size, axis.size, size, axis.size)
            elif axis is group.axis and dim not in held:
                score += _products(one, other, [dim])
    step: Permutations = {}
    chosen: dict[Axis, np.ndarray] = {}
    for axis, gains in inner.items():
        chosen[axis] = np.zeros((size, size, axis.size), dtype=np.int64)
        for here, there in np.ndindex(size, size):
            if group.axis.fixed and here != there:
                continue
            rows, columns = linear_sum_assignment(gains[here, :, there], maximize=True)
            chosen[axis][here, there] = columns
            score[here, there] += gains[here, rows, there, columns].sum()
    blocks = np.arange(size) if group.axis.fixed else linear_sum_assignment(score, maximize=True)[1]
    if not group.axis.fixed:
        step[group.axis] = torch.from_numpy(blocks.copy())
    for axis, columns in chosen.items():
        step[axis] = torch.from_numpy(columns[np.arange(size), blocks])
    return step


def _products(one: Tensor, other: Tensor, dims: list[int]) -> np.ndarray:
    """Inner products of all pairs of slices along some dimensions, flattened."""
    rest = [dim for dim in range(one.dim()) if dim not in dims]
    count = int(np.prod([one.shape[dim] for dim in dims]))
    left, right = (tensor.permute(*dims, *rest).reshape(count, -1) for tensor in (one, other))
    return (left @ right.T).cpu().numpy()


def _compose(permutations: Permutations, group: _Group, step: Permutations) -> None:
    """Compose a step with the permutations so far."""
    blocks = step.get(group.axis)
    if blocks is not None:
        permutations[group.axis] = permutations[group.axis][blocks]
    for axis in group.inside:
        rows = permutations[axis] if blocks is None else permutations[axis][blocks]
        permutations[axis] = rows.gather(1, step[axis])
