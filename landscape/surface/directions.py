"""Directions of weight space along which a surface is measured."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from landscape.compute.randomness import generator
from landscape.compute.settings import measurement
from landscape.eigen import eigenpairs
from landscape.errors import LandscapeError
from landscape.objective import CurvatureOperator, Objective, filters
from landscape.objective.parameters import in_pairs


class NoPlaneError(LandscapeError):
    """A trajectory spans a line or a point."""


@dataclass(frozen=True)
class Directions:
    r"""Axes of a plane or line through the weights: points are :math:`w + \alpha d_1 + \beta d_2`.

    Parameters
    ----------
    vectors
        (k, P), k = 1 or 2, in the objective's coordinates.
    kind
        Where they come from: ``random``, ``hessian``, ``through``, ``between``, ``trajectory``, or what a file says.
    facts
        What else is known: eigenvalues, seed, share of variance.
    marks
        Named points in the plane, e.g. the checkpoints that span it: name to coordinates (k,).
    path
        (T, k) coordinates of a training trajectory, or None.
    """

    vectors: Tensor
    kind: str
    facts: Mapping[str, float | str] = field(default_factory=dict)
    marks: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    path: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def norms(self) -> list[float]:
        """Euclidean length of each direction."""
        return [float(vector.double().norm()) for vector in self.vectors]

    @property
    def angle(self) -> float:
        """Angle between the two directions in degrees, as they are used; not a number for a line."""
        if len(self) < 2:
            return math.nan
        first, second = self.vectors.double()
        return math.degrees(math.acos(max(-1.0, min(1.0, float(first @ second / (first.norm() * second.norm()))))))

    def at(self, point: Tensor, coordinates: Sequence[float]) -> Tensor:
        """The point of weight space (P,) at some coordinates (k,)."""
        # Zero times a direction adds nothing, so that the origin is the network itself to the last bit.
        moved = point.clone()
        for coordinate, vector in zip(coordinates, self.vectors, strict=True):
            moved.add_(vector.to(moved), alpha=coordinate)
        return moved


@measurement
def random_directions(objective: Objective, count: int = 2, *, seed: int = 0) -> Directions:
    r"""Gaussian directions, normalised as the objective's protocol says.

    Each group *f* of coordinates (`landscape.objective.filters.norms`), by default an output filter, becomes
    :math:`d_f \lVert w_f\rVert / \lVert d_f\rVert` (Li et al. 2018, arXiv 1712.09913, section 4).

    Parameters
    ----------
    objective
        Gives the weights, their names and the protocol (`normalization`, `one_dimensional`).
    count
        1 for a line, 2 for a plane.
    seed
        Each tensor has a stream of its own, named by seed, direction and the parameter's name: networks that share
        names share draws.
    """
    parts = []
    for index in range(count):
        drawn = [
            torch.randn(shape, generator=generator(seed, "direction", index, name), dtype=torch.float64)
            for name, shape in zip(objective.space.names, objective.space.shapes, strict=True)
        ]
        parts.append(normalized(objective, drawn))
        if not bool(parts[-1].any()):
            raise LandscapeError(
                "a random direction of these parameters is zero: one-dimensional ones stay where they are under this "
                "protocol (--one-dimensional random moves them), and so do weights of zero"
            )
    return Directions(vectors=torch.stack(parts), kind="random", facts={"seed": float(seed)})


def normalized(objective: Objective, drawn: Sequence[Tensor]) -> Tensor:
    """Flat direction (P,) from one tensor per parameter, by the objective's protocol."""
    weights = [weight.double() for weight in objective.space.split(objective.point)]
    drawn = [part.to(weight.device) for part, weight in zip(drawn, weights, strict=True)]
    lengths = zip(filters.norms(objective, weights), filters.norms(objective, drawn), strict=True)
    return objective.space.flatten(
        # What is zero has no direction, as in a file made at zero weights: it stays zero.
        part * (wanted / length.masked_fill(length == 0, 1.0))
        for part, (wanted, length) in zip(drawn, lengths, strict=True)
    ).to(objective.point)


@measurement
def hessian_directions(objective: Objective, count: int = 2, *, seed: int = 0) -> Directions:
    """The eigenvectors of the Hessian's largest eigenvalues, each as long as the weights are.

    Scaled by the norm of the weight vector so that a span means a relative step, as it does for normalised random
    directions.
    """
    pairs = eigenpairs(CurvatureOperator(objective), count, seed=seed, tolerance=1e-3)
    length = objective.point.double().norm()
    facts: dict[str, float | str] = {
        f"eigenvalue_{index + 1}": float(value) for index, value in enumerate(pairs.values)
    }
    return Directions(vectors=(pairs.vectors.T * length).to(objective.point), kind="hessian", facts=facts)


@measurement
def between(objective: Objective, other: Tensor, *, names: Sequence[str] = ("A", "B")) -> Directions:
    """The line from the objective's weights (coordinate 0) to `other` (P,) (coordinate 1)."""
    vector = _difference(objective, other, names[-1])
    return Directions(
        vectors=vector[None].to(objective.point), kind="between", marks={names[0]: (0.0,), names[1]: (1.0,)}
    )


@measurement
def through(objective: Objective, others: Sequence[Tensor], *, names: Sequence[str] = ("A", "B", "C")) -> Directions:
    """The plane through three networks, without distortion (Garipov et al. 2018, arXiv 1802.10026).

    The first axis runs from the objective's weights to the first other, which is at (1, 0); the second is orthogonal
    to it and of the same length.
    """
    first, second = (_difference(objective, other, name) for other, name in zip(others, names[1:], strict=True))
    length = first.norm()
    along = float(second @ first / length**2)
    across = second - along * first
    if float(across.norm()) <= 1e-9 * float(second.norm()):
        raise LandscapeError("the three networks lie on one line: draw the line between two of them")
    height = float(across.norm() / length)
    vectors = torch.stack([first, across / height])
    marks = {names[0]: (0.0, 0.0), names[1]: (1.0, 0.0), names[2]: (along, height)}
    return Directions(vectors=vectors.to(objective.point), kind="through", marks=marks)


@measurement
def trajectory(objective: Objective, points: Sequence[Tensor]) -> Directions:
    r"""The plane in which a training trajectory moves most: principal components of its steps from the end point.

    As Li et al. (2018, section 7): the components of :math:`[w_0 - w_n, \dots, w_{n-1} - w_n]`, not centred. Each
    direction has the length of the path's largest extent along it, so that the path spans about [-1, 1].

    Parameters
    ----------
    objective
        Its weights are the end point.
    points
        Flat weights (P,) of earlier times, in order; at least two that differ.
    """
    if len(points) < 2:
        raise LandscapeError(f"a trajectory of {len(points)} checkpoints spans no plane: give two or more besides CKPT")
    steps = torch.stack(
        [_difference(objective, point, f"checkpoint {n + 1}", empty=True) for n, point in enumerate(points)]
    )
    gram = steps @ steps.T
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    if float(values[1]) <= 1e-12 * float(values[0]):
        raise NoPlaneError("the trajectory lies on one line or does not move: give more checkpoints")
    axes = (steps.T @ vectors[:, :2]) / values[:2].sqrt()
    coordinates = steps @ axes
    extent = coordinates.abs().amax(0)
    shares = values / values.sum()
    return Directions(
        vectors=(axes * extent).T.contiguous().to(objective.point),
        kind="trajectory",
        facts={"variance_share_1": float(shares[0]), "variance_share_2": float(shares[1])},
        path=torch.cat([coordinates / extent, torch.zeros(1, 2, dtype=torch.float64)]).cpu().numpy(),
    )


def _difference(objective: Objective, other: Tensor, name: str, *, empty: bool = False) -> Tensor:
    if other.shape != objective.point.shape:
        raise LandscapeError(f"{name} has {len(other)} parameters, the network {objective.size}: give one of its kind")
    vector = other.double().to(objective.point.device) - objective.point.double()
    if not empty and not bool(vector.any()):
        raise LandscapeError(f"{name} has the same weights as the network: there is no line between them")
    return vector


def point_of(objective: Objective, parameters: Mapping[str, Tensor], name: str) -> Tensor:
    """Flat weights (P,) of another network of the same kind, float64.

    Parameters
    ----------
    objective
        Says which parameters count.
    parameters
        By name.
    name
        Of the other network, for messages.
    """
    tensors = []
    for wanted, shape in zip(objective.space.names, objective.space.shapes, strict=True):
        if wanted not in parameters:
            raise LandscapeError(f"{name} has no parameter {wanted}: give a checkpoint of the same network")
        parameter = in_pairs(parameters[wanted].detach())
        if parameter.shape != shape:
            raise LandscapeError(
                f"{wanted} of {name} has shape {tuple(parameter.shape)}, not {tuple(shape)}: "
                "give a checkpoint of the same network"
            )
        tensors.append(parameter.double())
    return objective.space.flatten(tensors)
