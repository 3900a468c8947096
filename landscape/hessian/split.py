"""The split H = GGN + residual: the part of the curvature that the loss makes, and the part that the network makes."""

from collections.abc import Sequence

import numpy as np
import torch
import xarray
from torch import Tensor

from landscape import tables
from landscape.compute.progress import Progress
from landscape.compute.settings import measurement
from landscape.eigen import SymmetricOperator, eigenpairs, trace
from landscape.objective import CurvatureOperator, Objective


class Residual(SymmetricOperator):
    r"""The residual :math:`H - \mathrm{GGN} = \frac1N\sum_{n,k} \partial_{f_k}\ell_n\, \nabla^2 f_k(x_n)`.

    The L2 term is in both and cancels.

    Parameters
    ----------
    hessian, ggn
        The two operators of one objective.
    """

    def __init__(self, hessian: CurvatureOperator, ggn: CurvatureOperator) -> None:
        self.hessian, self.ggn = hessian, ggn
        self.size, self.dtype, self.device = hessian.size, hessian.dtype, hessian.device

    def together(self, rows: int = 0) -> int:
        """As many as both can."""
        return min(self.hessian.together(rows), self.ggn.together(rows))

    def __call__(self, vectors: Tensor) -> Tensor:
        """Multiply a vector (P,) or columns (P, k)."""
        return self.hessian(vectors) - self.ggn(vectors)


@measurement
def curvature_split(
    objective: Objective,
    *,
    top: int = 5,
    tolerance: float = 1e-3,
    trace_products: int = 30,
    sample: int = 0,
    seed: int = 0,
    quiet: bool = True,
) -> xarray.Dataset:
    r"""Both ends of the Hessian, each eigenvalue split into GGN and residual parts, and both parts' own spectra.

    For an eigenvector *v* of *H*, :math:`\lambda = v^\top G v + v^\top R v`. *G* is positive semi-definite for a convex
    loss, so that all negative curvature lives in *R*, which vanishes where the examples are fitted (Schraudolph 2002;
    Sagun et al. 2017, arXiv 1706.04454).

    Parameters
    ----------
    objective
        The function whose curvature is split.
    top
        Eigenvalues at each end of the Hessian.
    tolerance
        Relative error of the eigenvalues.
    trace_products
        Products spent on each trace.
    sample
        Which draw of the dropout masks.
    seed
        Of starting vectors and probes.
    quiet
        No progress bar.

    Returns
    -------
    xarray.Dataset
        Over ``rank``: ``eigenvalue``, ``residual`` (its bound), ``ggn_part``, ``residual_part``; the same with
        ``lowest_`` before the name for the smallest eigenvalues; ``ggn_eigenvalue``, the largest of *G*;
        ``residual_largest`` and ``residual_smallest`` of *R* with their bounds; ``hessian_trace``, ``ggn_trace``,
        ``residual_trace``, each with ``_stderr``.
    """
    hessian = CurvatureOperator(objective, "hessian", sample=sample)
    ggn = CurvatureOperator(objective, "ggn", sample=sample)
    residual = Residual(hessian, ggn)
    variables: dict[str, object] = {}
    with Progress(6, "split", unit="step", quiet=quiet) as bar:
        # One search space for both ends.
        pairs = eigenpairs(hessian, 2 * top, which="BE", tolerance=tolerance, seed=seed, keep_space=True)
        ggn_part = (pairs.vectors * ggn(pairs.vectors)).sum(0, dtype=torch.float64).cpu().numpy()
        count = min(top, len(pairs.values))
        ends = {"": slice(0, count), "lowest_": slice(-1, -count - 1, -1)}
        for prefix, end in ends.items():
            variables |= {
                f"{prefix}eigenvalue": ("rank", pairs.values[end]),
                f"{prefix}residual": ("rank", pairs.residuals[end]),
                f"{prefix}ggn_part": ("rank", ggn_part[end]),
                f"{prefix}residual_part": ("rank", (pairs.values - ggn_part)[end]),
            }
        bar.update()
        of_ggn = eigenpairs(ggn, top, tolerance=tolerance, seed=seed, keep_space=True)
        variables |= {"ggn_eigenvalue": ("rank", of_ggn.values), "ggn_residual": ("rank", of_ggn.residuals)}
        bar.update()
        extremes = eigenpairs(residual, 2, which="BE", tolerance=tolerance, seed=seed, keep_space=True)
        for index, name in ((0, "largest"), (-1, "smallest")):
            variables[f"residual_{name}"] = ((), float(extremes.values[index]))
            variables[f"residual_{name}_bound"] = ((), float(extremes.residuals[index]))
        bar.update()
        for name, operator, known in (
            ("hessian", hessian, pairs),
            ("ggn", ggn, of_ggn),
            ("residual", residual, extremes),
        ):
            estimate = trace(operator, products=trace_products, seed=seed, space=known.space)
            variables |= {f"{name}_trace": ((), estimate.value), f"{name}_trace_stderr": ((), estimate.stderr)}
            bar.update()
    return xarray.Dataset(
        variables,
        {"rank": np.arange(1, count + 1)},
        attrs=hessian.attributes(products=hessian.products + ggn.products),
    )


def table(results: Sequence[xarray.Dataset]) -> str:
    """The split, one column per network."""
    rows: list[tables.Row] = []
    for prefix, label in (("", "eigenvalue"), ("lowest_", "lowest eigenvalue")):
        cells = [tables.value(prefix + name, ".4g") for name in ("eigenvalue", "ggn_part")]
        cells.append(tables.value(f"{prefix}residual_part", "+.3g"))

        def parts(result: xarray.Dataset, cells: Sequence[tables.Cell] = cells) -> str:
            eigenvalue, ggn, residual = (cell(result) for cell in cells)
            return f"{eigenvalue} = {ggn} {residual}"

        rows += [(f"{row} = GGN + residual", cell) for row, cell in tables.by_rank(results, label, parts)]
    rows.append(("top eigenvalue of the GGN", lambda result: f"{float(result['ggn_eigenvalue'][0]):.5g}"))
    for name in ("largest", "smallest"):
        cell = tables.value(f"residual_{name}", ".4g", f"residual_{name}_bound")
        rows.append((f"{name} eigenvalue of the residual", cell))
    for name in ("hessian", "ggn", "residual"):
        rows.append((f"trace of the {name}", tables.value(f"{name}_trace", ".4g", f"{name}_trace_stderr")))
    rows.append(("products", tables.attribute("products")))
    note = "Eigenvectors of the Hessian; the GGN part holds the L2 term. ± is a bound, of traces one standard error."
    return tables.side_by_side(results, rows, [note])
