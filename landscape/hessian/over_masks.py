"""Curvature under Monte-Carlo dropout: each mask has a Hessian of its own, and their mean is another one."""

from collections.abc import Sequence

import numpy as np
import torch
import xarray
from torch import Tensor

from landscape import tables
from landscape.compute.memory import available_memory
from landscape.compute.progress import Progress
from landscape.compute.settings import measurement
from landscape.eigen import eigenpairs, trace
from landscape.errors import LandscapeError
from landscape.hessian.sharpness import ScaledOperator, filter_norms
from landscape.hessian.wrapping import Wrapping
from landscape.metrics import confidence
from landscape.objective import CurvatureOperator, Objective
from landscape.objective.operators import Kind


class MeanOperator(Wrapping):
    r"""The mean of several symmetric operators, :math:`v \mapsto \frac1M \sum_m A_m v`.

    Parameters
    ----------
    parts
        Operators on the same space, whose graphs share one budget: the first answers for all.
    """

    def __init__(self, parts: Sequence[CurvatureOperator]) -> None:
        super().__init__(parts[0])
        self.parts = parts

    def __call__(self, vectors: Tensor) -> Tensor:
        """Multiply a vector (P,) or columns (P, k)."""
        total = torch.zeros_like(vectors)
        for part in self.parts:
            total += part(vectors)
        return total / len(self.parts)


@measurement
def mask_spectra(
    objective: Objective,
    *,
    masks: int = 10,
    top: int = 5,
    operator: Kind = "hessian",
    tolerance: float = 1e-3,
    trace_products: int = 30,
    seed: int = 0,
    quiet: bool = True,
) -> xarray.Dataset:
    r"""Top eigenvalues and trace over dropout masks: mean with standard error, spread, and those of the mean Hessian.

    Two different means: :math:`\frac1M\sum_m \lambda_k(H_m)`, how curved the loss is that one training step sees, and
    :math:`\lambda_k(\frac1M\sum_m H_m)`, how curved the expected loss is, which training descends on. The second is
    never above the first for the largest eigenvalue (it is a convex function of the matrix).

    Parameters
    ----------
    objective
        With protocol ``dropout="fixed"`` or ``"fresh"``: mask *m* is draw *m* of its `mask_seed`. (A draw is held for
        all products: an operator that redraws at every product is not symmetric.)
    masks
        Number *M* of draws.
    top
        Eigenvalues of each.
    operator
        ``hessian``, ``ggn`` or ``fisher``.
    tolerance
        Relative error of the eigenvalues: far below their spread over masks.
    trace_products
        Products spent on the trace of each draw.
    seed
        Of starting vectors and probes, the same for all draws, so that differences are the masks'.
    quiet
        No progress bar.

    Returns
    -------
    xarray.Dataset
        ``mask_eigenvalue`` (mask, rank) with ``mask_residual``, and ``mask_trace`` (mask). Means over masks with their
        standard errors and 95 % intervals, corrected for skewness (from three masks on): ``eigenvalue`` (rank) with
        ``eigenvalue_stderr``, ``eigenvalue_low``, ``eigenvalue_high`` and ``eigenvalue_spread`` (standard deviation
        over masks); ``trace`` likewise; ``mean_hessian_eigenvalue`` (rank) likewise, to first order, from the masks'
        Rayleigh quotients, and with ``mean_hessian_residual``.

    Raises
    ------
    LandscapeError
        When dropout is off, the network has none, or `masks` is less than 2.
    """
    if objective.protocol.dropout == "off":
        raise LandscapeError("dropout is off in this protocol: give --dropout fixed to measure over masks")
    if masks < 2:
        raise LandscapeError(f"{masks} mask has no spread: give two or more")
    if not has_dropout(objective):
        raise LandscapeError("the network has no dropout: there are no masks to average over")
    # The graphs of all masks are kept while the mean Hessian's eigenpairs are computed: they share one budget.
    budget = available_memory(objective.device) // 2 if objective.memory is None else objective.memory
    shared = objective.within(budget // masks)
    parts = [CurvatureOperator(shared, operator, sample=mask) for mask in range(masks)]
    spectra, traces = [], []
    with Progress(masks + 1, "masks", unit="mask", quiet=quiet) as bar:
        for mask in range(masks):
            curvature = CurvatureOperator(objective, operator, sample=mask)
            pairs = eigenpairs(curvature, top, tolerance=tolerance, seed=seed, keep_space=True)
            estimate = trace(curvature, products=trace_products, seed=seed, space=pairs.space)
            spectra.append((pairs.values, pairs.residuals))
            traces.append(estimate.value)
            parts[mask].products += curvature.products
            bar.update(largest=f"{pairs.values[0]:.4g}")
        of_mean = eigenpairs(MeanOperator(parts), top, tolerance=tolerance, seed=seed)
        bar.update()
    vectors = of_mean.vectors
    quotients = np.array([(vectors * part(vectors)).sum(0, dtype=torch.float64).tolist() for part in parts])
    values, residuals = (np.array(rows) for rows in zip(*spectra, strict=True))
    return xarray.Dataset(
        {
            "mask_eigenvalue": (("mask", "rank"), values),
            "mask_residual": (("mask", "rank"), residuals),
            "mask_trace": ("mask", np.array(traces)),
            **_over_masks("eigenvalue", values, ("rank",)),
            "eigenvalue_spread": ("rank", values.std(axis=0, ddof=1)),
            **_over_masks("trace", np.array(traces), ()),
            "trace_spread": ((), float(np.std(traces, ddof=1))),
            # Centred on what the eigensolver found, of which the mean quotient is the first order.
            **_over_masks("mean_hessian_eigenvalue", quotients - quotients.mean(0) + of_mean.values, ("rank",)),
            "mean_hessian_eigenvalue": ("rank", of_mean.values),
            "mean_hessian_residual": ("rank", of_mean.residuals),
        },
        {"mask": np.arange(masks), "rank": np.arange(1, values.shape[1] + 1)},
        attrs=parts[0].attributes(products=sum(part.products for part in parts)),
    )


def _over_masks(name: str, values: np.ndarray, dims: tuple[str, ...]) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Mean over masks (mask, ...), its standard error, and its 95 % interval."""
    low, high = confidence.of_mean(values.T)
    estimates = {"": values.mean(0), "_stderr": confidence.standard_error(values, axis=0), "_low": low, "_high": high}
    return {name + ending: (dims, np.asarray(numbers)) for ending, numbers in estimates.items()}


@measurement
def mean_hessian_spectrum(
    objective: Objective, *, masks: int = 1, tolerance: float = 1e-3, seed: int = 0
) -> xarray.Dataset:
    """Largest eigenvalue of the Hessian of the loss averaged over masks, raw and in filter-normalised coordinates.

    Parameters
    ----------
    objective
        The function whose curvature is measured.
    masks
        Draws of the masks that the Hessian is averaged over; without dropout all are the same.
    tolerance
        Relative error of the eigenvalues.
    seed
        Of the starting vectors.

    Returns
    -------
    xarray.Dataset
        Over ``units`` (raw, filter-normalised): ``eigenvalue`` with ``residual``, and ``l2_shift``, the first-order
        part of the L2 term in each, whether or not it was measured: exact for the raw eigenvalue, an underestimate of
        second order for the other (the largest eigenvalue is convex in the matrix).
    """
    parts = [CurvatureOperator(objective, sample=sample) for sample in range(masks)]
    mean = MeanOperator(parts)
    scale = filter_norms(objective)
    spectra = []
    for operator, squares in ((mean, torch.ones_like(scale)), (ScaledOperator(mean, scale), scale.square())):
        # No search for further copies of an eigenvalue: which of equal ones comes first does not matter here.
        pairs = eigenpairs(operator, 1, tolerance=tolerance, confidence=0, seed=seed)
        shift = objective.weight_decay * float((squares * pairs.vectors[:, 0].square()).sum())
        spectra.append((float(pairs.values[0]), float(pairs.residuals[0]), shift))
    return xarray.Dataset(
        {
            name: ("units", np.array(values))
            for name, values in zip(("eigenvalue", "residual", "l2_shift"), zip(*spectra, strict=True), strict=True)
        },
        {"units": ["raw", "filter-normalised"]},
        attrs=parts[0].attributes(products=sum(part.products for part in parts)),
    )


def mean_hessian_table(results: Sequence[xarray.Dataset]) -> str:
    """Both eigenvalues, side by side."""
    rows = [
        (f"largest eigenvalue, {unit}", tables.value("eigenvalue", error="residual", units=unit))
        for unit in results[0]["units"].values
    ]
    return tables.side_by_side(results, rows)


def has_dropout(objective: Objective) -> bool:
    """Whether two draws of the masks give different losses."""
    weights, stop = objective.weights(), min(objective.images, 16)
    first, second = (objective.example_losses_at(weights, 0, stop, sample=sample) for sample in range(2))
    return not torch.equal(first, second)


def table(results: Sequence[xarray.Dataset]) -> str:
    """Eigenvalues over masks, side by side."""
    kinds = (
        tables.by_rank(results, "eigenvalue", tables.estimate("eigenvalue")),
        tables.by_rank(results, "", tables.value("eigenvalue_spread", ".3g")),
        tables.by_rank(results, "", tables.estimate("mean_hessian_eigenvalue")),
    )
    rows: list[tables.Row] = []
    for (label, own), (_, spread), (_, mean) in zip(*kinds, strict=True):
        rows += [
            (f"{label}, mean over masks", own),
            ("  its spread over masks", spread),
            ("  of the mean Hessian", mean),
        ]
    rows += [
        ("trace", tables.estimate("trace")),
        ("  its spread over masks", tables.value("trace_spread", ".3g")),
        ("masks", lambda result: str(result.sizes["mask"])),
        ("products", tables.attribute("products")),
    ]
    note = "In brackets, the 95 % interval over masks; spread is one standard deviation."
    return tables.side_by_side(results, rows, [note])
