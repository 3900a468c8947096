"""Top eigenvalues with what each group of images adds to the first, for resampling the images."""

from collections.abc import Sequence

import xarray

from landscape import tables
from landscape.compute.settings import measurement
from landscape.eigen import eigenpairs
from landscape.hessian.mini_batches import confidence_of_copies
from landscape.hessian.sampling import in_random_order, sampling
from landscape.objective import CurvatureOperator, Objective
from landscape.objective.operators import Kind


@measurement
def image_group_spectrum(
    objective: Objective,
    *,
    group: int = 4,
    top: int = 5,
    operator: Kind = "hessian",
    tolerance: float = 1e-3,
    seed: int = 0,
) -> xarray.Dataset:
    r"""Top eigenvalues, and the Rayleigh quotients of groups of images at the first eigenvector.

    To first order the largest eigenvalue is the mean of :math:`v^\top A_g v` over the groups, whichever images they
    are: resampling the groups shows what the choice of images costs, with no further product.

    Parameters
    ----------
    objective
        The function whose curvature is measured.
    group
        Images per group. Groups of 4 cost a fourth of single images, and resample as well.
    top
        Number of eigenvalues.
    operator
        ``hessian``, ``ggn`` or ``fisher``.
    tolerance
        Relative error of the eigenvalues.
    seed
        Of the starting vectors.

    Returns
    -------
    xarray.Dataset
        ``eigenvalue`` (rank) with ``residual`` and what the choice of images costs
        (`landscape.hessian.sampling.Sampling`); ``quotient_of_group`` (group).
    """
    curvature = CurvatureOperator(objective, operator)
    pairs = eigenpairs(curvature, top, tolerance=tolerance, confidence=confidence_of_copies(objective), seed=seed)
    groups = CurvatureOperator(in_random_order(objective), operator, micro_batch=group)
    quotients = groups.batch_projections(pairs.vectors[:, :1])[0][:, 0, 0]
    return xarray.Dataset(
        {
            "eigenvalue": ("rank", pairs.values),
            "residual": ("rank", pairs.residuals),
            **sampling(curvature, pairs.values, pairs.vectors).variables(),
            "quotient_of_group": ("group", quotients.cpu().numpy()),
        },
        attrs=curvature.attributes(),
    )


def table(results: Sequence[xarray.Dataset]) -> str:
    """Eigenvalues, and the spread of the first over groups of images, side by side."""
    rows: list[tables.Row] = [
        *tables.by_rank(results, "eigenvalue", tables.value("eigenvalue", error="residual")),
        ("  spread over groups", lambda result: f"{float(result['quotient_of_group'].std(ddof=1)):.3g}"),
        ("groups", lambda result: str(result.sizes["group"])),
    ]
    note = "± bounds the numerical error; spread: of the first eigenvalue's quotients."
    return tables.side_by_side(results, rows, [note])
