"""Exact curvature beside a surface: along its axes, and the extreme eigenvalues in every cell."""

from collections.abc import Sequence

import numpy as np
import xarray

from landscape.compute.settings import measurement
from landscape.eigen import eigenpairs
from landscape.objective import CurvatureOperator, Objective
from landscape.store.journal import Journal
from landscape.surface.cells import Cells
from landscape.surface.directions import Directions
from landscape.surface.measure import AXES
from landscape.surface.worker import Worker


@measurement
def along_axes(objective: Objective, directions: Directions) -> xarray.Dataset:
    r"""Second derivatives at the origin by Hessian-vector products.

    Returns
    -------
    xarray.Dataset
        ``axis_curvature`` (axis, axis'), :math:`d_i^\top H d_j` (nats per unit of the coordinates squared), what the
        surface's own second differences must come to; ``rayleigh`` (axis), :math:`d_i^\top H d_i / d_i^\top d_i` (nats
        per unit of weight squared), to be compared with the Hessian's eigenvalues.
    """
    columns = directions.vectors.T.contiguous()
    products = CurvatureOperator(objective)(columns)
    matrix = (columns.double().T @ products.double()).cpu().numpy()
    matrix = (matrix + matrix.T) / 2
    lengths = np.array(directions.norms)
    return xarray.Dataset(
        {
            "axis_curvature": (("axis", "other_axis"), matrix, {"long_name": "d' H d", "units": "nats"}),
            "rayleigh": ("axis", np.diag(matrix) / lengths**2, {"long_name": "Rayleigh quotient", "units": "nats"}),
        }
    )


@measurement
def over_cells(
    objective: Objective,
    directions: Directions,
    coordinates: Sequence[np.ndarray],
    *,
    tolerance: float = 0.05,
    seed: int = 0,
    journal: Journal | None = None,
    quiet: bool = True,
) -> xarray.Dataset:
    """Smallest and largest eigenvalue of the Hessian in every cell of a lattice (Li et al. 2018, section 6).

    Parameters
    ----------
    objective, directions, coordinates
        The lattice.
    tolerance
        Relative; 5 % tells convex from non-convex wherever the negative curvature matters.
    seed
        Of the starting vectors.
    journal, quiet
        As for a surface.

    Returns
    -------
    xarray.Dataset
        ``smallest_eigenvalue`` and ``largest_eigenvalue`` with their ``_residual`` over ``map_alpha`` and ``map_beta``;
        not a number where the loss is not finite.
    """
    worker = Worker(Cells(objective, directions), coordinates, journal, quiet)
    keys = [f"curvature/{number}" for number in range(int(np.prod(worker.shape)))]

    def compute(key: str) -> dict[str, np.ndarray]:
        index = tuple(int(part) for part in np.unravel_index(int(key.partition("/")[2]), worker.shape))
        point = directions.at(objective.point, worker.at(index))
        if not np.isfinite(objective.value(point).loss):
            return {name: np.array(np.nan) for name in ("smallest", "largest", "smallest_error", "largest_error")}
        pairs = eigenpairs(
            CurvatureOperator(objective, point=point), 2, which="BE", tolerance=tolerance, seed=seed, confidence=0
        )
        order = np.argsort(pairs.values)
        return {
            "smallest": pairs.values[order[0]],
            "largest": pairs.values[order[-1]],
            "smallest_error": pairs.residuals[order[0]],
            "largest_error": pairs.residuals[order[-1]],
        }

    done = dict(worker.pieces(keys, compute, images=0, what="curvature map"))
    dimensions = tuple(f"map_{name}" for name in AXES[: len(coordinates)])
    names = {
        "smallest_eigenvalue": "smallest",
        "largest_eigenvalue": "largest",
        "smallest_residual": "smallest_error",
        "largest_residual": "largest_error",
    }
    return xarray.Dataset(
        {
            name: (dimensions, np.array([done[key][of].item() for key in keys]).reshape(worker.shape))
            for name, of in names.items()
        },
        dict(zip(dimensions, coordinates, strict=True)),
    )
