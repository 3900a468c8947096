"""Barcode of the sublevel sets: which basins of a surface appear and merge at which height."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Barcode:
    """0-dimensional persistence: each bar is a basin, born at its minimum, dead where it meets a deeper one.

    Attributes
    ----------
    births, deaths
        (b,), longest bar first; the deepest basin never dies, its death is the largest value.
    minima
        (b, d) lattice index of each basin's minimum.
    """

    births: np.ndarray
    deaths: np.ndarray
    minima: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """(b,) heights of the barriers around the basins."""
        return self.deaths - self.births

    def longer_than(self, height: float) -> int:
        """Basins behind a barrier higher than `height`, the deepest one always counted."""
        return 1 + int((self.lengths[1:] > height).sum()) if len(self.births) else 0

    @property
    def total(self) -> float:
        """Sum of the barriers of all basins but the deepest: 0 for a surface with one minimum."""
        return float(self.lengths[1:].sum())


def barcode(values: np.ndarray) -> Barcode:
    """Barcode of a lattice whose cells are connected along the axes (Edelsbrunner, Letscher & Zomorodian 2002).

    Cells that are not finite are in no sublevel set. A basin that they cut off never dies either; its death is the
    largest value, too.
    """
    heights = np.where(np.isfinite(values), values, np.inf).ravel()
    shape = values.shape
    steps = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
    root = np.full(heights.size, -1)
    births: list[float] = []
    deaths: list[float] = []
    minima: list[int] = []

    def find(cell: int) -> int:
        while root[cell] != cell:
            root[cell] = root[root[cell]]
            cell = int(root[cell])
        return cell

    finite = np.isfinite(heights)
    for cell in np.argsort(heights, kind="stable").tolist():
        if not finite[cell]:
            break
        index = np.unravel_index(cell, shape)
        around = {
            find(cell + sign * step)
            for axis, step in enumerate(steps)
            for sign in (-1, 1)
            if 0 <= index[axis] + sign < shape[axis] and root[cell + sign * step] >= 0
        }
        root[cell] = cell
        if around:
            # Basins are named by their minimum: the deepest survives.
            deepest = min(around, key=lambda basin: (heights[basin], basin))
            root[cell] = deepest
            for basin in sorted(around - {deepest}):
                root[basin] = deepest
                # A cell joined from two sides at its own height is not a basin.
                if heights[cell] > heights[basin]:
                    births.append(float(heights[basin]))
                    deaths.append(float(heights[cell]))
                    minima.append(basin)
    cut_off = {find(int(cell)) for cell in np.flatnonzero(finite)} - {int(np.argmin(heights))}
    for basin in sorted(cut_off):
        births.append(float(heights[basin]))
        deaths.append(float(heights[finite].max()))
        minima.append(basin)
    order = np.argsort([birth - death for birth, death in zip(births, deaths, strict=True)], kind="stable")
    if finite.any():
        lowest = int(np.argmin(heights))
        births = [float(heights[lowest]), *[births[number] for number in order]]
        deaths = [float(heights[finite].max()), *[deaths[number] for number in order]]
        minima = [lowest, *[minima[number] for number in order]]
    return Barcode(
        births=np.array(births),
        deaths=np.array(deaths),
        minima=np.stack(np.unravel_index(np.array(minima, dtype=int), shape), axis=1),
    )
