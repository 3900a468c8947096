"""Cells by lattice index: shared out over processes, journalled, collected."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.distributed
from torch import Tensor

from landscape.store.journal import Journal
from landscape.store.pieces import Arrays, pieces
from landscape.surface import adaptive
from landscape.surface.cells import Cells


class Worker:
    """Measures cells by lattice index, shared out over processes, journalled, and collects them in arrays."""

    def __init__(self, cells: Cells, coordinates: Sequence[np.ndarray], journal: Journal | None, quiet: bool) -> None:
        self.cells = cells
        self.objective = cells.objective
        self.coordinates = coordinates
        self.shape = tuple(len(axis) for axis in coordinates)
        self.journal = journal
        self.quiet = quiet
        self.image_passes = 0

    def at(self, index: adaptive.Index) -> tuple[float, ...]:
        """Coordinates of a cell."""
        return tuple(float(axis[part]) for axis, part in zip(self.coordinates, index, strict=True))

    def number(self, index: adaptive.Index) -> int:
        """Number of a cell."""
        return int(np.ravel_multi_index(index, self.shape))

    def origin(self) -> tuple[tuple[float, ...], int]:
        """Coordinates of the origin and its number: that of the cell there, if there is one."""
        zeros = [np.flatnonzero(axis == 0) for axis in self.coordinates]
        there = all(len(indices) for indices in zeros)
        number = self.number(tuple(int(indices[0]) for indices in zeros)) if there else math.prod(self.shape)
        return (0.0,) * len(zeros), number

    def corners(self) -> list[adaptive.Index]:
        """The corners of the lattice."""
        corners: list[adaptive.Index] = [()]
        for length in self.shape:
            corners = [(*corner, edge) for corner in corners for edge in (0, length - 1)]
        return corners

    def pieces(
        self, keys: Sequence[str], compute: Callable[[str], Arrays], *, images: int, what: str
    ) -> Iterator[tuple[str, Arrays]]:
        """Pieces by key, see :func:`landscape.store.pieces.pieces`; their forward passes are counted."""
        self.image_passes += images * self.cells.passes * len(keys)
        return pieces(keys, compute, journal=self.journal, what=what, unit="cell", quiet=self.quiet)

    def controls(self, points: Sequence[tuple[tuple[float, ...], int]]) -> Tensor:
        """Losses (N, c) of all examples at some points, given as coordinates and number."""

        def compute(key: str) -> Arrays:
            coordinates, number = points[int(key.partition("/")[2])]
            return {"losses": self.cells.losses(coordinates, number=number).cpu().numpy()}

        keys = [f"control/{point}" for point in range(len(points))]
        done = dict(self.pieces(keys, compute, images=self.objective.images, what="reference cells"))
        return torch.from_numpy(np.stack([done[key]["losses"] for key in keys], axis=1)).to(self.objective.device)

    def measure(
        self, indices: Sequence[adaptive.Index], controls: Tensor, images: int, *, what: str = "surface"
    ) -> Iterator[tuple[adaptive.Index, Arrays]]:
        """Sums of some cells over the first images, each as soon as it is there."""

        def compute(key: str) -> Arrays:
            index = named[key]
            return self.cells.measure(self.at(index), number=self.number(index), controls=controls, images=images)

        named = {f"cell/{images}/{self.number(index)}": index for index in indices}
        for key, arrays in self.pieces(list(named), compute, images=images, what=what):
            yield named[key], arrays
