"""Cells where the surface bends, interpolation where it does not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from scipy.interpolate import RBFInterpolator

from landscape.compute.randomness import numpy_generator
from landscape.metrics.confidence import LEVEL

Index = tuple[int, ...]
# A box of the lattice: first and last index along each axis.
Box = tuple[tuple[int, int], ...]
Evaluate = Callable[[Sequence[Index]], None]

# A first lattice of so many points per axis: coarse enough to save, fine enough to see more than one bend.
_FIRST = 6
_NEIGHBOURS = 25
# Share of the interpolated cells that are measured after all, to check.
_CHECKED = 0.03
_FEWEST_CHECKS = 10


@dataclass(frozen=True)
class Refinement:
    """What was measured, and what the rest risks.

    Attributes
    ----------
    error
        Over the lattice: 0 where measured, elsewhere the estimate of the interpolation error.
    checks
        Interpolated cells, drawn at random, that were measured after all.
    worst
        Largest error found in the last round of checks; not a number without checks.
    """

    error: np.ndarray
    checks: int
    worst: float

    @property
    def risk(self) -> float:
        """Bound, at 95 % confidence, on the share of interpolated cells beyond the tolerance: all checks were below."""
        return float(1 - (1 - LEVEL) ** (1 / self.checks)) if self.checks else 0.0


def refine(values: np.ndarray, evaluate: Evaluate, tolerance: float, *, seed: int = 0) -> Refinement:
    """Measure a lattice where interpolation would be off by more than `tolerance`.

    A coarse lattice first. In the middle of each of its boxes the surface is predicted from all that is known around,
    then measured: a box whose prediction is off by more than the tolerance is cut in two along each axis, and so on
    down to the lattice itself. At the end some interpolated cells, drawn at random, are measured; a box in which one of
    them is off is cut too, until all of a round agree.

    Parameters
    ----------
    values
        Over the lattice, not a number where not measured; filled in by `evaluate`.
    evaluate
        Measures some cells and writes their values.
    tolerance
        Largest interpolation error, in units of `values`.
    seed
        Of the checks.
    """
    shape = values.shape
    known = np.zeros(shape, dtype=bool)

    def measure(cells: Sequence[Index]) -> None:
        new = sorted({cell for cell in cells if not known[cell]})
        if new:
            evaluate(new)
            for cell in new:
                known[cell] = True

    breaks = [np.unique(np.linspace(0, length - 1, min(_FIRST, length)).round().astype(int)) for length in shape]
    measure([tuple(int(part) for part in cell) for cell in np.stack(np.meshgrid(*breaks), -1).reshape(-1, len(shape))])
    boxes: list[Box] = [()]
    for axis in breaks:
        spans = list(pairwise(axis.tolist())) or [(0, 0)]
        boxes = [(*box, span) for box in boxes for span in spans]

    error = np.zeros(shape)
    accepted: dict[Box, float] = {}
    rounds = 0
    while True:
        while boxes:
            centres = {box: tuple((low + high) // 2 for low, high in box) for box in boxes if _divisible(box)}
            fresh = {box: centre for box, centre in centres.items() if not known[centre]}
            predicted = interpolated(values, known, list(fresh.values()))
            measure(list(fresh.values()))
            parts: list[Box] = []
            for (box, centre), prediction in zip(fresh.items(), predicted, strict=True):
                surplus = abs(values[centre] - prediction)
                if surplus <= tolerance and all(np.isfinite(values[corner]) for corner in _corners(box)):
                    accepted[box] = float(surplus)
                else:
                    parts += _cut(box)
            # A box whose middle happened to be known already has not been tested: it is cut.
            for box in centres.keys() - fresh.keys():
                parts += _cut(box)
            measure([corner for box in parts for corner in _corners(box)])
            boxes = parts
        for box, surplus in accepted.items():
            region = tuple(slice(low, high + 1) for low, high in box)
            error[region] = np.maximum(error[region], surplus)
        rest = np.argwhere(~known)
        checks = min(len(rest), max(_FEWEST_CHECKS, round(_CHECKED * len(rest))))
        if checks == 0:
            return Refinement(np.where(known, 0.0, error), 0, float("nan"))
        order = numpy_generator(seed, "surface", "check", rounds).permutation(len(rest))[:checks]
        cells = [tuple(int(part) for part in rest[index]) for index in order]
        predicted = interpolated(values, known, cells)
        measure(cells)
        off = np.array([abs(values[cell] - prediction) for cell, prediction in zip(cells, predicted, strict=True)])
        wrong = [cell for cell, distance in zip(cells, off, strict=True) if not distance <= tolerance]
        if not wrong:
            return Refinement(np.where(known, 0.0, error), checks, float(off.max()))
        guilty = {box for box in accepted for cell in wrong if _within(cell, box)}
        for box in guilty:
            del accepted[box]
            boxes += _cut(box)
        measure([corner for box in boxes for corner in _corners(box)])
        rounds += 1


def interpolated(values: np.ndarray, known: np.ndarray, cells: Sequence[Index]) -> np.ndarray:
    """Values at some cells from finite known ones around: cubic radial functions that reproduce quadratics."""
    if not len(cells):
        return np.empty(0)
    usable = np.argwhere(known & np.isfinite(values))
    wanted = np.array(cells, dtype=float)
    if len(usable) == 0:
        return np.full(len(cells), np.nan)
    heights = values[tuple(usable.T)]
    # A thin lattice cannot carry a quadratic: fewer terms then.
    for degree in (2, 1, 0):
        try:
            kernel: Literal["cubic", "linear"] = "cubic" if degree else "linear"
            return np.asarray(
                RBFInterpolator(
                    usable.astype(float), heights, neighbors=min(_NEIGHBOURS, len(usable)), kernel=kernel, degree=degree
                )(wanted)
            )
        except (np.linalg.LinAlgError, ValueError):
            continue
    return np.full(len(cells), float(heights.mean()))


def _divisible(box: Box) -> bool:
    return any(high - low > 1 for low, high in box)


def _corners(box: Box) -> list[Index]:
    corners: list[Index] = [()]
    for low, high in box:
        corners = [(*corner, edge) for corner in corners for edge in {low, high}]
    return corners


def _cut(box: Box) -> list[Box]:
    parts: list[Box] = [()]
    for low, high in box:
        middle = (low + high) // 2
        spans = [(low, middle), (middle, high)] if high - low > 1 else [(low, high)]
        parts = [(*part, span) for part in parts for span in spans]
    return parts if _divisible(box) else []


def _within(cell: Index, box: Box) -> bool:
    return all(low <= part <= high for part, (low, high) in zip(cell, box, strict=True))
