"""The max-eigenvalue spectrum: top eigenvalues of the Hessians of many mini-batches, as a distribution."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import xarray
from matplotlib.figure import Figure

from landscape import plotting, tables
from landscape.compute import workers
from landscape.compute.randomness import derived_seed, generator, numpy_generator
from landscape.compute.settings import math_attention, measurement
from landscape.data import Data
from landscape.eigen import eigenpairs
from landscape.errors import LandscapeError
from landscape.hessian.over_masks import MeanOperator
from landscape.metrics.confidence import of_quantile, tails
from landscape.objective import CurvatureOperator, Objective
from landscape.objective.losses import Classification
from landscape.objective.operators import Kind
from landscape.store.journal import Journal
from landscape.store.pieces import Arrays, pieces
from landscape.store.vocabulary import with_unit

PROBABILITIES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
REPLICATES = 1000
# Far outside by Tukey (1977): beyond the upper quartile by three interquartile ranges.
FENCE = 3.0
# Share of the mini-batches' largest eigenvalues that the tail index is computed from.
TAIL_SHARE = 0.1
_GRID_POINTS = 256


def epochs(data: Data, count: int, *, seed: int = 0) -> Data:
    """`count` examples in random order: each epoch has every example once, in an order of its own.

    Parameters
    ----------
    data
        The examples to draw from.
    count
        Number of examples; more than there are start another epoch. (Frozen augmentation is drawn by position in the
        result, so that a later epoch has other crops.)
    seed
        Of the orders; each epoch has a stream of its own.
    """
    orders = [
        torch.randperm(len(data), generator=generator(seed, "mini-batches", epoch))
        for epoch in range(-(-count // len(data)))
    ]
    return data.select(torch.cat(orders)[:count])


@measurement
def mini_batch_spectra(
    objective: Objective,
    *,
    per_batch: int = 16,
    batches: int | None = None,
    top: int = 5,
    operator: Kind = "hessian",
    tolerance: float = 1e-3,
    masks: int = 1,
    seed: int = 0,
    journal: Journal | None = None,
    quiet: bool = True,
) -> xarray.Dataset:
    r"""Eigenvalues of largest magnitude of every mini-batch's Hessian of the regularised loss.

    Mini-batch *b* is examples *b n* to *(b + 1) n* of the objective, which is why these must stand in random order
    (`epochs` does that). The Hessian of a mini-batch has outliers that the whole data's average hides (Park & Kim,
    ICLR 2022, arXiv 2202.06709, section 3; 16 images per mini-batch, top 5 by magnitude, are theirs). Negative
    eigenvalues among them show non-convexity.

    Parameters
    ----------
    objective
        The function, not sharded: under torchrun, mini-batches are distributed over processes.
    per_batch
        Images *n* in a mini-batch.
    batches
        Number of mini-batches; by default, and at most, as many as the examples fill.
    top
        Eigenvalues of each mini-batch.
    operator
        ``hessian``, ``ggn`` or ``fisher``.
    tolerance
        Relative error of the eigenvalues: 1e-3 is far below the spread between mini-batches.
    masks
        Draws of the dropout masks that each mini-batch's Hessian is the mean of; one, as in training.
    seed
        Of starting vectors and bootstrap. Every mini-batch has a stream of its own and starts from scratch, so that
        its numbers depend neither on the process that computes them nor on an earlier run.
    journal
        Where finished mini-batches are saved and looked up.
    quiet
        No progress bar.

    Returns
    -------
    xarray.Dataset
        ``eigenvalue`` (batch, rank), descending, with ``residual``, ``error`` and ``converged``, and the distribution
        as `distribution` sums it up.

    Raises
    ------
    LandscapeError
        When the examples do not fill one mini-batch, or the objective is sharded.
    """
    if objective.sharded:
        raise LandscapeError("mini-batches are distributed over processes: give an objective with sharded=False")
    filled = objective.images // per_batch
    if filled == 0:
        raise LandscapeError(
            f"{objective.images} images do not fill a mini-batch of {per_batch}: take more images or smaller batches"
        )
    batches = filled if batches is None else min(batches, filled)
    numbers = {f"mini-batch {number}": number for number in range(batches)}

    def compute(key: str) -> Arrays:
        ends = numbers[key] * per_batch, (numbers[key] + 1) * per_batch
        own_seed = derived_seed(seed, "mini-batch", numbers[key])
        return _pairs_of(objective, operator, ends, top=top, tolerance=tolerance, masks=masks, seed=own_seed)

    with math_attention:
        computed = dict(
            pieces(
                list(numbers),
                compute,
                journal=journal,
                what="mini-batches",
                unit="batch",
                quiet=quiet,
                show=lambda key, arrays: {"largest": f"{np.nanmax(arrays['pairs'][0]):.4g}"},
                # Too small to keep several cores busy: one core each.
                each=lambda compute, keys: workers.each(compute, keys, objective.device, one_core=len(keys)),
            )
        )
    result = _spectra([computed[key] for key in numbers])
    result.attrs |= {
        "operator": operator,
        "per_batch": per_batch,
        "parameters": objective.size,
        "images": batches * per_batch,
    }
    return result.merge(distribution(result["eigenvalue"].values, seed=seed), combine_attrs="no_conflicts")


def _spectra(computed: Sequence[Arrays]) -> xarray.Dataset:
    """Eigenvalues of all mini-batches, out of what `_pairs_of` gives for each, and the products that they took."""
    values, residuals, errors, converged = np.stack([arrays["pairs"] for arrays in computed], axis=1)
    dimensions = ("batch", "rank")
    return xarray.Dataset(
        {
            "eigenvalue": (dimensions, values, {"long_name": "eigenvalue", "units": "nats"}),
            "residual": (dimensions, residuals, {"long_name": "bound |lambda - eigenvalue|"}),
            "error": (dimensions, errors, {"long_name": "estimate of |lambda - eigenvalue|"}),
            "converged": (dimensions, (converged == 1).astype(np.int8)),
        },
        {"batch": np.arange(values.shape[0]), "rank": np.arange(1, values.shape[1] + 1)},
        attrs={"products": sum(int(arrays["products"][0]) for arrays in computed)},
    )


def _pairs_of(
    objective: Objective, operator: Kind, ends: tuple[int, int], *, top: int, tolerance: float, masks: int, seed: int
) -> Arrays:
    """Eigenpairs of one mini-batch, largest first, in rows of `_COLUMNS`; NaN where there are fewer."""
    first, last = ends
    parts = [
        CurvatureOperator(objective, operator, first=first, last=last, sample=mask, micro_batch=last - first)
        for mask in range(masks)
    ]
    curvature = parts[0] if masks == 1 else MeanOperator(parts)
    confidence = confidence_of_copies(objective)
    pairs = eigenpairs(curvature, top, which="LM", tolerance=tolerance, seed=seed, confidence=confidence)
    order = np.argsort(-pairs.values)
    columns = np.full((len(_COLUMNS), top), np.nan)
    columns[:, : len(order)] = np.stack([getattr(pairs, name)[order] for name in _COLUMNS])
    return {"pairs": columns, "products": np.array([float(pairs.products)])}


def confidence_of_copies(objective: Objective) -> float:
    """How surely `eigenpairs` is to look for further copies of an eigenvalue: not at all of a classifier.

    Exact copies among its largest eigenvalues need equal images. Of a regression's last layer, or a linear one, every
    eigenvalue is there once per output.
    """
    return 0.0 if isinstance(objective.loss, Classification) else 0.95


_COLUMNS = ("values", "residuals", "errors", "converged")


def distribution(eigenvalues: np.ndarray, *, seed: int = 0, replicates: int = REPLICATES) -> xarray.Dataset:
    r"""Statistics of the mini-batches' eigenvalues, each with its standard error and interval.

    Mini-batches are resampled, not eigenvalues: those of one mini-batch belong together (Efron 1979). The intervals of
    quantiles are between order statistics instead, by `landscape.metrics.confidence.of_quantile`: the bootstrap's held
    the upper ones in 86 % of samples of 64 mini-batches.

    Parameters
    ----------
    eigenvalues
        (batch, rank), each row descending.
    seed, replicates
        Of the bootstrap.

    Returns
    -------
    xarray.Dataset
        For each of the following, NAME, also NAME_stderr and the 95 % NAME_interval over ``bound`` (low, high):
        ``quantile`` (probability) of all eigenvalues, both not a number where too few lie beyond it;
        ``negative_share``; ``outlier_share``, the share above :math:`Q_3 + 3\,(Q_3 - Q_1)` of the same eigenvalues
        (Tukey's outer fence: it moves with the scale of the bulk, so that networks of different scale can be compared);
        ``tail_index`` of the largest eigenvalue of each mini-batch (`tail_index`; smaller means a heavier tail);
        ``density`` (grid), a Gaussian kernel estimate whose standard deviation is ``kernel_width``.

    Raises
    ------
    LandscapeError
        When no eigenvalue is finite.
    """
    finite = eigenvalues[np.isfinite(eigenvalues)]
    if len(finite) == 0:
        raise LandscapeError("no mini-batch has a finite eigenvalue: the weights or the images are damaged")
    low, high = np.quantile(finite, [0.25, 0.75])
    spread = min(finite.std(), (high - low) / 1.349) or finite.std() or 1.0
    # Silverman 1986, eq. 3.31, for the number of mini-batches: these are what is independent.
    width = float(0.9 * spread * len(eigenvalues) ** -0.2)
    grid = np.linspace(finite.min() - 3 * width, finite.max() + 3 * width, _GRID_POINTS)
    source = numpy_generator(seed, "mini-batch bootstrap")
    statistics = _statistics(eigenvalues, grid, width)
    drawn = [
        _statistics(eigenvalues[source.integers(len(eigenvalues), size=len(eigenvalues))], grid, width)
        for _ in range(replicates)
    ]
    dimensions_of = {"quantile": ("probability",), "density": ("grid",)}
    variables: dict[str, object] = {"kernel_width": ((), width)}
    for name, value in statistics.items():
        replicated = np.array([replicate[name] for replicate in drawn])
        dimensions = dimensions_of.get(name, ())
        # A tail without spread has an infinite index; its spread over replicates then is undefined, and NaN says so.
        with np.errstate(invalid="ignore"):
            deviation = replicated.std(axis=0, ddof=1)
            interval = np.quantile(replicated, tails(), axis=0)
        if name == "quantile":
            interval = np.array([of_quantile(eigenvalues, probability) for probability in PROBABILITIES]).T
            deviation = np.where(np.isfinite(interval).all(0), deviation, np.nan)
        variables |= {
            name: (dimensions, value),
            f"{name}_stderr": (dimensions, deviation),
            f"{name}_interval": (("bound", *dimensions), interval),
        }
    return xarray.Dataset(
        variables,
        {"probability": list(PROBABILITIES), "grid": grid, "bound": ["low", "high"]},
        attrs={"outlier_rule": f"above Q3 + {FENCE:g} (Q3 - Q1)", "tail_rule": f"Hill, upper {TAIL_SHARE:.0%}"},
    )


def _statistics(eigenvalues: np.ndarray, grid: np.ndarray, width: float) -> dict[str, np.ndarray | float]:
    finite = eigenvalues[np.isfinite(eigenvalues)]
    low, high = np.quantile(finite, [0.25, 0.75])
    return {
        "quantile": np.quantile(finite, PROBABILITIES),
        "negative_share": float((finite < 0).mean()),
        "outlier_share": float((finite > high + FENCE * (high - low)).mean()),
        "tail_index": tail_index(eigenvalues[:, 0]),
        "density": _kernel_density(finite, grid, width),
    }


def tail_index(largest: np.ndarray, share: float = TAIL_SHARE) -> float:
    r"""Hill's index of the upper tail, :math:`\hat\alpha = k / \sum_{i \le k} \log(x_{(i)} / x_{(k+1)})`.

    For :math:`P(X > x) \sim x^{-\alpha}` (Hill 1975). *k* is `share` of the values, at least 5; NaN with fewer than
    ten values or when the threshold is not positive.
    """
    ordered = np.sort(largest[np.isfinite(largest)])[::-1]
    count = max(5, round(share * len(ordered)))
    if len(ordered) < 2 * count or ordered[count] <= 0:
        return float("nan")
    excess = np.log(ordered[:count] / ordered[count]).sum()
    return float(count / excess) if excess > 0 else float("inf")


def _kernel_density(values: np.ndarray, grid: np.ndarray, width: float) -> np.ndarray:
    """Gaussian kernel estimate on an even grid, from binned counts: fast enough for a thousand replicates."""
    step = grid[1] - grid[0]
    position = np.clip((values - grid[0]) / step, 0, len(grid) - 1 - 1e-9)
    cell, part = position.astype(int), position % 1
    # Linear binning: each value is split between the two grid points around it.
    counts = np.bincount(cell, 1 - part, len(grid)) + np.bincount(cell + 1, part, len(grid))
    reach = np.arange(-len(grid) + 1, len(grid)) * step / width
    kernel = np.exp(-(reach**2) / 2)
    kernel /= kernel.sum() * step
    return np.convolve(counts, kernel, mode="valid") / len(values)


def draw(results: Sequence[xarray.Dataset], path: Path | None = None) -> Figure:
    """Max-eigenvalue spectra in one picture: density with its bootstrap band, and the tail on a log axis.

    Parameters
    ----------
    results
        What `mini_batch_spectra` gives.
    path
        Where to save the picture (.pdf, .png, .svg).
    """
    with plotting.style():
        figure = plotting.figure(plotting.TWO_COLUMNS, 2.8)
        body, tail = figure.subplots(1, 2)
        for result, look in zip(results, plotting.labels(results), strict=True):
            band = result["density_interval"]
            body.fill_between(result["grid"], band[0], band[1], color=look.color, alpha=0.18, linewidth=0)
            body.plot(result["grid"], result["density"], color=look.color, label=look.label)
            largest = np.sort(result["eigenvalue"].values[:, 0])
            largest = largest[largest > 0]
            above = 1 - np.arange(len(largest)) / max(len(largest), 1)
            tail.step(largest, above, where="pre", color=look.color)
        body.axvline(0, color=plotting.ink(), linewidth=0.5)
        body.set_xlabel(with_unit("eigenvalues of a mini-batch's Hessian", results))
        body.set_ylabel("density (1 / nat)" if with_unit("", results) else "density")
        body.set_title("max-eigenvalue spectrum")
        plotting.log_scale(tail, "x")
        plotting.log_scale(tail, "y")
        tail.set_xlabel(with_unit("largest eigenvalue of a mini-batch", results))
        tail.set_ylabel("share of mini-batches above")
        tail.set_title("upper tail")
        plotting.letter([body, tail])
        plotting.below(figure, body, title="band: 95 % over mini-batches")
    if path is not None:
        plotting.save(figure, path, plotting.provenance(results))
    return figure


def table(results: Sequence[xarray.Dataset]) -> str:
    """Quantiles, signs and tail of the mini-batches' eigenvalues, side by side."""

    def row(label: str, name: str) -> tables.Row:
        return label, tables.value(name, ".4g", f"{name}_stderr", ".2g")

    def quantile(probability: float) -> tables.Row:
        def cell(result: xarray.Dataset) -> str:
            one = result.sel(probability=probability)
            return tables.with_interval(float(one["quantile"]), *map(float, one["quantile_interval"].values))

        return f"quantile {probability:g}", cell

    first = results[0]
    rows = [
        *map(quantile, map(float, first["probability"].values)),
        row("share of negative eigenvalues", "negative_share"),
        row("share of outliers", "outlier_share"),
        row("tail index", "tail_index"),
        ("mini-batches", lambda result: str(result.sizes["batch"])),
        ("products", tables.attribute("products")),
    ]
    notes = [
        f"the {first.sizes['rank']} eigenvalues of largest magnitude of each mini-batch of "
        f"{int(first.attrs['per_batch'])} images; [low, high] is the 95 % interval over mini-batches, "
        "± one standard error (bootstrap).",
        f"outliers lie {first.attrs['outlier_rule']} of all these eigenvalues; a smaller tail index is a heavier tail "
        f"({first.attrs['tail_rule']} of the largest).",
    ]
    return tables.side_by_side(results, rows, notes)
