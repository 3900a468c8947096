"""Lines and planes: which cells are measured, on how many images, and what becomes of them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed
import xarray
from scipy import ndimage
from torch import Tensor

from landscape.compute.randomness import generator, numpy_generator
from landscape.compute.settings import measurement
from landscape.errors import LandscapeError
from landscape.metrics import METRICS, confidence
from landscape.objective import Objective, Precision
from landscape.objective.terms import is_cross_entropy
from landscape.store.journal import Journal
from landscape.store.vocabulary import described
from landscape.surface import adaptive
from landscape.surface.cells import Cells
from landscape.surface.directions import Directions, random_directions
from landscape.surface.sampling import Regression
from landscape.surface.worker import Arrays, Worker

Range = tuple[float, float]
Span = float | Sequence[Range]

AXES = ("alpha", "beta")
# Images of the pilot that tells how many images the wanted standard error needs, and cells in which it is taken.
_PILOT_IMAGES = 1000
_PILOT_CELLS = 16
# Below, the error that a sample of heavy-tailed losses states is itself too uncertain for its interval to hold.
_FEWEST_IMAGES = 500
# What the pilot's own error asks for on top.
_MARGIN = 1.1
# What bends as the loss does; its lowest and highest values may be in cells that are not measured.
_HEIGHTS = ("loss", "cross_entropy", "l2", "rise")
_NOWHERE = (math.nan, math.nan)
_WORDS = {
    "loss": ("regularised loss", "nats"),
    "cross_entropy": ("mean loss over examples", "nats"),
    "l2": ("L2 term", "nats"),
    "rise": ("loss above the loss at the origin", "nats"),
    "mask_spread": ("standard deviation of the loss over mask draws", "nats"),
    "mask_stderr": ("standard error of the loss over mask draws", "nats"),
    "interpolation_error": ("estimate of the error of the interpolation", "nats"),
    "evaluated": ("whether the cell was measured", "1"),
    "loss_of_image": ("loss of an image", "nats"),
} | {name: (metric.label, metric.unit) for name, metric in METRICS.items()}


@measurement
def plane(
    objective: Objective,
    *,
    directions: Directions | None = None,
    points: int | tuple[int, int] = 21,
    span: Span = 1.0,
    passes: int = 1,
    precision: Precision = "full",
    tolerance: float | None = None,
    stderr: float | str | None = None,
    keep_losses: bool = False,
    seed: int = 0,
    journal: Journal | None = None,
    quiet: bool = True,
) -> xarray.Dataset:
    r"""The objective over a plane, :math:`L(w + \alpha d_1 + \beta d_2)`.

    Parameters
    ----------
    objective
        The function; its protocol decides masks, batch norm, images and how random directions are normalised.
    directions
        The two axes; random ones from `seed` unless given.
    points
        Cells along each axis; 21 as in Park & Kim. With an odd number the origin is a cell.
    span
        *S* for the square [-S, S]^2, or one (low, high) per axis.
    passes
        Mask draws per cell when the protocol's dropout is ``fresh``.
    precision
        ``full``, or ``bfloat16``: several times faster where the processor knows it; the error of the loss is measured
        at the origin and the corners and stated (attribute ``precision_error``).
    tolerance
        Measure only where the surface bends, and interpolate where that is right to this many nats; see
        :func:`landscape.surface.adaptive.refine`.
    stderr
        Wanted standard error of the loss against all images, in nats, or as a fraction of the surface's range such as
        ``"1%"``: every cell then sees the same random sample of images, only as many as that needs, see
        :mod:`landscape.surface.sampling`. Under ``fixed`` masks, examples get the masks of their place in the sample's
        order.
    keep_losses
        Keep the losses of single examples, ``loss_of_image`` (alpha, beta, image) without the L2 term: for resampling
        the images of several networks alike. Every cell must then be measured, on all images.
    seed
        Of the directions, the sample and the checks.
    journal
        Where finished cells are kept, and read again.
    quiet
        No progress bar.

    Returns
    -------
    xarray.Dataset
        Over ``alpha`` and ``beta`` (dimensionless, in lengths of the directions): ``loss`` = ``cross_entropy`` +
        ``l2`` (nats); ``loss_stderr``, over the choice of examples, or with `stderr` against all of them, and
        ``loss_low`` and ``loss_high``, the 95 % interval (`landscape.metrics.confidence.skewed`; nan where no
        prediction is wrong); ``rise`` above the origin with ``rise_stderr``, ``rise_low`` and ``rise_high``, of the
        paired differences; the metrics of :mod:`landscape.metrics` with their ``_stderr``; ``mask_spread``
        and ``mask_stderr`` (several passes); ``evaluated``, 1 where measured; ``interpolation_error``. Cells that are
        not finite stay so.

    Raises
    ------
    LandscapeError
        For a grid of fewer than two points, a span that is empty, directions that do not fit, or losses to keep of
        cells that are not measured on all images.

    Examples
    --------
    >>> import landscape
    >>> model = landscape.build("resnet_dnn_18", num_classes=10, width=2)
    >>> images = landscape.data.load("digits", "train")
    >>> objective = landscape.Objective(model, images, protocol=landscape.Protocol(images=16))
    >>> surface = plane(objective, points=3, span=0.1)
    >>> surface["loss"].dims, float(surface["rise"].sel(alpha=0, beta=0))
    (('alpha', 'beta'), 0.0)
    """
    return _measure(
        objective,
        directions if directions is not None else random_directions(objective, 2, seed=seed),
        axes=2,
        points=points,
        span=span,
        passes=passes,
        precision=precision,
        tolerance=tolerance,
        stderr=stderr,
        keep_losses=keep_losses,
        seed=seed,
        journal=journal,
        quiet=quiet,
    )


@measurement
def line(
    objective: Objective,
    *,
    directions: Directions | None = None,
    points: int = 51,
    span: Span = 1.0,
    passes: int = 1,
    precision: Precision = "full",
    tolerance: float | None = None,
    stderr: float | str | None = None,
    seed: int = 0,
    journal: Journal | None = None,
    quiet: bool = True,
) -> xarray.Dataset:
    """The objective along a line; as `plane`, over ``alpha`` alone.

    Examples
    --------
    >>> import landscape
    >>> model = landscape.build("resnet_dnn_18", num_classes=10, width=2)
    >>> images = landscape.data.load("digits", "train")
    >>> objective = landscape.Objective(model, images, protocol=landscape.Protocol(images=16))
    >>> line(objective, points=5, span=0.1)["alpha"].values.tolist()
    [-0.1, -0.05, 0.0, 0.05, 0.1]
    """
    return _measure(
        objective,
        directions if directions is not None else random_directions(objective, 1, seed=seed),
        axes=1,
        points=points,
        span=span,
        passes=passes,
        precision=precision,
        tolerance=tolerance,
        stderr=stderr,
        seed=seed,
        journal=journal,
        quiet=quiet,
    )


def grid(points: int | tuple[int, ...], span: Span, axes: int) -> list[np.ndarray]:
    """Coordinates along each axis; symmetric ranges are symmetric, and hold the origin, to the last bit."""
    counts = (points,) * axes if isinstance(points, int) else tuple(points)
    ranges = [(-float(span), float(span))] * axes if isinstance(span, (int, float)) else [tuple(r) for r in span]
    if len(counts) != axes or len(ranges) != axes:
        raise LandscapeError(f"{len(counts)} numbers of points and {len(ranges)} ranges do not fit {axes} axes")
    coordinates = []
    for count, (low, high) in zip(counts, ranges, strict=True):
        if count < 2:
            raise LandscapeError(f"{count} points do not make an axis: give --points 2 or more")
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise LandscapeError(f"the range {low:g} to {high:g} is empty or not finite: give a positive --span")
        steps = np.arange(count)
        symmetric = high * ((2 * steps - (count - 1)) / (count - 1))
        coordinates.append(symmetric if low == -high else np.linspace(low, high, count))
    return coordinates


def _measure(
    objective: Objective,
    directions: Directions,
    *,
    axes: int,
    points: int | tuple[int, ...],
    span: Span,
    passes: int,
    precision: Precision,
    tolerance: float | None,
    stderr: float | str | None,
    seed: int,
    journal: Journal | None,
    quiet: bool,
    keep_losses: bool = False,
) -> xarray.Dataset:
    coordinates = grid(points, span, axes)
    _require_measurable(objective, directions, axes, passes, tolerance)
    if keep_losses and (tolerance is not None or stderr is not None):
        raise LandscapeError("losses of single images are kept of whole lattices: leave --tolerance and --stderr out")
    wanted = None if stderr is None else _wanted(stderr)
    if wanted is not None:
        # In random order, so that the first n examples are a random sample.
        order = torch.randperm(objective.images, generator=generator(seed, "surface", "sample"))
        objective = objective.reordered(order)
    cells = Cells(objective, directions, passes=passes, precision=precision, keep_losses=keep_losses)
    worker = Worker(cells, coordinates, journal, quiet)
    variables, facts = _on_enough_images(worker, tolerance, wanted, seed)
    if precision != "full":
        facts["precision_error"] = _precision_error(worker, facts.get("images_sampled", objective.images))
    dimensions = AXES[:axes]
    of_image = variables.pop("loss_of_image", None)
    dataset = xarray.Dataset(
        {name: (dimensions, values) for name, values in variables.items()},
        dict(zip(dimensions, coordinates, strict=True)),
        attrs=_attributes(worker, variables) | {"precision": precision} | facts,
    )
    if of_image is not None:
        dataset["loss_of_image"] = ((*dimensions, "image"), of_image)
    dataset = described(dataset, _WORDS)
    if not is_cross_entropy(objective.loss.name):
        dataset = dataset.rename(cross_entropy="data_loss").assign_attrs(loss_name=objective.loss.name)
    return _with_marks(objective.in_unit(dataset), directions)


def _require_measurable(
    objective: Objective, directions: Directions, axes: int, passes: int, tolerance: float | None
) -> None:
    if len(directions) != axes or directions.vectors.shape[1] != objective.size:
        raise LandscapeError(
            f"directions of shape {tuple(directions.vectors.shape)} do not fit: {axes} of {objective.size} are needed"
        )
    if objective.sharded:
        raise LandscapeError("a surface distributes cells, not examples: make the objective with sharded=False")
    if passes < 1 or (tolerance is not None and not tolerance > 0):
        raise LandscapeError("give --passes of 1 or more and a positive --tolerance")


def _attributes(worker: Worker, variables: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What was measured, and what it cost."""
    objective, cells = worker.objective, worker.cells
    directions = cells.directions
    whole = math.prod(worker.shape) * objective.images * cells.passes
    return {
        "images": objective.images,
        "population": objective.population,
        "parameters": objective.size,
        "passes": cells.passes,
        "direction_kind": directions.kind,
        "angle_degrees": directions.angle,
        "direction_norms": np.array(directions.norms),
        "weight_norm": float(objective.point.double().norm()),
        "classes": objective.data.classes,
        "micro_batch": cells.inference.micro_batch,
        "dropout": objective.protocol.dropout,
        "image_passes": worker.image_passes,
        "saved_factor": whole / worker.image_passes,
        "cells_evaluated": int(variables["evaluated"].sum()),
        "nonfinite_cells": int((~np.isfinite(variables["loss"])).sum()),
        "running_statistics": int(objective.protocol.batch_norm == "running" and objective.has_batch_norm),
        **{f"direction_{name}": value for name, value in directions.facts.items()},
    }


def _with_marks(dataset: xarray.Dataset, directions: Directions) -> xarray.Dataset:
    if directions.marks:
        dataset = dataset.assign_coords(mark=list(directions.marks))
        dataset["mark_place"] = (("mark", "axis"), np.array(list(directions.marks.values())))
    if directions.path is not None:
        dataset["path"] = (("step", "axis"), directions.path)
    return dataset


def _controls(worker: Worker, *, corners: bool) -> Tensor:
    """Losses (N, c) at the origin, and at the corners where they are finite."""
    points = [worker.origin()]
    if corners:
        points += [(worker.at(corner), worker.number(corner)) for corner in worker.corners()]
    controls = worker.controls(list(dict.fromkeys(points)))
    usable = controls.isfinite().all(0)
    usable[0] = True
    return controls[:, usable]


def _on_enough_images(
    worker: Worker, tolerance: float | None, wanted: tuple[float, bool] | None, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All variables over the lattice, on as many images as the wanted standard error needs; and facts about that."""
    total = worker.objective.images
    controls = _controls(worker, corners=wanted is not None)
    sample, target = (total, math.nan) if wanted is None else _sample_size(worker, controls, wanted, seed)
    while True:
        variables, facts = _over_lattice(worker, controls, sample, tolerance, seed, sampled=wanted is not None)
        if wanted is None:
            return variables, facts
        errors = variables["loss_stderr"][variables["evaluated"] == 1]
        errors = errors[np.isfinite(errors)]
        reached = float(errors.max()) if len(errors) else math.nan
        if sample == total or not reached > target:
            return variables, facts | {"stderr_wanted": target, "stderr_reached": reached, "images_sampled": sample}
        sample = min(total, math.ceil(sample * (reached / target) ** 2 * _MARGIN))


def _over_lattice(
    worker: Worker, controls: Tensor, sample: int, tolerance: float | None, seed: int, *, sampled: bool
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All variables over the lattice: measured everywhere, or where the tolerance asks for it; and facts about that."""
    regression = Regression(controls, sample) if sampled else None
    # Added up as cells are, for a rise of exactly zero at the origin: the `sum` of Python 3.12 rounds less.
    ranges = worker.cells.inference.ranges(0, worker.objective.images)
    at_origin = controls[:, 0].contiguous()
    total = torch.zeros((), dtype=torch.float64, device=at_origin.device)
    for start, stop in ranges:
        total += at_origin[start:stop].sum()
    origin_mean = float(total / worker.objective.images)
    zero = float(worker.objective.l2(worker.objective.weights().parameters))
    variables: dict[str, np.ndarray] = {}
    known = np.zeros(worker.shape, dtype=bool)

    def evaluate(indices: Sequence[adaptive.Index]) -> None:
        for index, arrays in worker.measure(indices, controls[:sample], sample):
            known[index] = True
            for name, value in _cell(arrays, origin_mean, zero, sample, regression).items():
                if name not in variables:
                    variables[name] = np.full(worker.shape, np.nan)
                variables[name][index] = value
            if "losses" in arrays:
                if "loss_of_image" not in variables:
                    variables["loss_of_image"] = np.empty((*worker.shape, sample), dtype=np.float32)
                variables["loss_of_image"][index] = arrays["losses"]

    if tolerance is None:
        evaluate(list(np.ndindex(worker.shape)))
        variables["evaluated"] = np.ones(worker.shape)
        return variables, {}
    variables["loss"] = np.full(worker.shape, np.nan)
    refinement = adaptive.refine(variables["loss"], evaluate, tolerance, seed=seed)
    _interpolate(variables, known)
    variables["evaluated"] = known.astype(float)
    variables["interpolation_error"] = refinement.error
    checked = {"checks": refinement.checks, "worst_check": refinement.worst, "risk": refinement.risk}
    return variables, {"tolerance": float(tolerance), **checked}


def _interpolate(variables: Mapping[str, np.ndarray], known: np.ndarray) -> None:
    """Fill in the cells that were not measured."""
    rest = [tuple(int(part) for part in index) for index in np.argwhere(~known)]
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)

    def filled(values: np.ndarray) -> np.ndarray:
        """Within what was measured, as errors are positive and shares below 1; unknown where the next cell's is."""
        finite = values[known & np.isfinite(values)]
        cells = np.clip(
            adaptive.interpolated(values, known, rest), finite.min(initial=np.inf), finite.max(initial=-np.inf)
        )
        return np.where(np.isfinite(values[tuple(nearest)][~known]), cells, np.nan)

    heights = [name for name in _HEIGHTS if name in variables]
    for name in heights:
        variables[name][~known] = adaptive.interpolated(variables[name], known, rest)
    for name, values in variables.items():
        of, _, end = name.rpartition("_")
        if end in ("low", "high"):
            # Of an interval the distance of its end, so that it holds the estimate.
            values[~known] = variables[of][~known] + filled(values - variables[of])
        elif name not in heights:
            values[~known] = filled(values)


def _cell(
    arrays: Mapping[str, np.ndarray],
    origin_mean: float,
    origin_l2: float,
    sample: int,
    regression: Regression | None,
) -> dict[str, float]:
    """Variables of one cell from its sums."""
    # A journal gives numbers back as arrays of one entry.
    mean, square, cube, l2 = (arrays[name].item() for name in ("cross_entropy", "square", "cube", "l2"))
    estimate, ends, rise_ends = mean, _NOWHERE, _NOWHERE
    if regression is not None:
        estimate, error = regression.estimate(mean, square, arrays["cross"])
        rise_error = error
        half = confidence.student(sample) * error
        ends = (estimate - half, estimate + half)
        rise_ends = (ends[0] - origin_mean, ends[1] - origin_mean)
    else:
        error, ends = confidence.from_moments(mean, square, cube, sample)
        paired, paired_cube = (arrays[name].item() for name in ("paired", "paired_cube"))
        rise_error, rise_ends = confidence.from_moments(mean - origin_mean, paired, paired_cube, sample)
        if "accuracy" in arrays and arrays["accuracy"].item() == 1:
            # Of no wrong prediction: the large losses of rare errors are not among those seen.
            ends = rise_ends = _NOWHERE
    above = l2 - origin_l2
    cell_values = {"loss": estimate + l2, "cross_entropy": estimate, "l2": l2, "loss_stderr": error}
    cell_values |= {"loss_low": ends[0] + l2, "loss_high": ends[1] + l2}
    cell_values |= {"rise": estimate - origin_mean + above, "rise_stderr": rise_error}
    cell_values |= {"rise_low": rise_ends[0] + above, "rise_high": rise_ends[1] + above}
    draws = arrays["of_pass"]
    if len(draws) > 1:
        cell_values["mask_spread"] = float(draws.std(ddof=1))
        cell_values["mask_stderr"] = cell_values["mask_spread"] / math.sqrt(len(draws))
    for name in METRICS:
        if name in arrays:
            cell_values |= {name: arrays[name].item(), f"{name}_stderr": arrays[f"{name}_stderr"].item()}
    return cell_values


def _wanted(stderr: float | str) -> tuple[float, bool]:
    """A standard error, and whether it is relative to the surface's range."""
    text = str(stderr).strip()
    relative = text.endswith("%")
    try:
        value = float(text.removesuffix("%")) / (100 if relative else 1)
    except ValueError:
        value = math.nan
    if not value > 0 or not math.isfinite(value):
        raise LandscapeError(
            f"--stderr {stderr} is not a standard error: give nats such as 0.01, or a fraction of the range such as 1%"
        )
    return value, relative


def _sample_size(worker: Worker, controls: Tensor, wanted: tuple[float, bool], seed: int) -> tuple[int, float]:
    """How many images every cell needs, and the wanted standard error in nats."""
    total = worker.objective.images
    pilot = min(total, _PILOT_IMAGES)
    cells = math.prod(worker.shape)
    order = numpy_generator(seed, "surface", "pilot").permutation(cells)[:_PILOT_CELLS]
    indices = [tuple(int(part) for part in np.unravel_index(cell, worker.shape)) for cell in sorted(order)]
    measured = dict(worker.measure(indices, controls[:pilot], pilot, what="pilot"))
    regression = Regression(controls, pilot)
    estimates = [
        regression.estimate(arrays["cross_entropy"].item(), arrays["square"].item(), arrays["cross"])
        for arrays in (measured[index] for index in indices)
    ]
    value, relative = wanted
    if relative:
        # The range of the pilot and the controls is at most that of the whole surface.
        heights = [*controls.double().mean(0).tolist(), *[mean for mean, _ in estimates if math.isfinite(mean)]]
        value *= max(heights) - min(heights)
    if not value > 0 or pilot == total:
        return total, value
    needs = [regression.needed(error, value) for _, error in estimates if math.isfinite(error)]
    sample = math.ceil(max(needs, default=total) * _MARGIN)
    return min(total, max(sample, _FEWEST_IMAGES)), value


def _precision_error(worker: Worker, images: int) -> float:
    """Largest |loss - loss in full precision| over the first images, at the origin and the corners, nats."""
    objective, cells = worker.objective, worker.cells
    exact = Cells(objective, cells.directions, passes=cells.passes, precision="full")
    points = [worker.origin(), *[(worker.at(index), worker.number(index)) for index in worker.corners()]]

    def compute(key: str) -> Arrays:
        coordinates, number = points[int(key.rpartition("/")[2])]
        rough, full = (of.losses(coordinates, number=number, images=images).mean() for of in (cells, exact))
        return {"off": (rough - full if bool(full.isfinite()) else full - full).abs().cpu().numpy()}

    keys = [f"precision/{images}/{cell}" for cell in range(len(points))]
    done = dict(worker.pieces(keys, compute, images=2 * images, what="error of the precision"))
    errors = np.array([done[key]["off"].item() for key in keys])
    return float(np.nanmax(errors)) if np.isfinite(errors).any() else math.nan
