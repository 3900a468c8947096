r"""Diagonal and row norms of the curvature, coordinate by coordinate, without the matrix.

With random signs *z*, :math:`E[z \circ A z] = \mathrm{diag}\,A` and :math:`E[(A z)^2_i] = \sum_j A_{ij}^2` (Bekas et
al. 2007): one product per draw gives both, and the spread over draws their errors. Where there are no more coordinates
than products, unit vectors give both exactly.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import xarray
from torch import Tensor

from landscape import tables
from landscape.compute.progress import Progress
from landscape.compute.randomness import generator
from landscape.compute.settings import measurement
from landscape.errors import LandscapeError
from landscape.objective import CurvatureOperator, Objective
from landscape.objective.operators import Kind

# Vectors per product call.
_TOGETHER = 8
# Name, dimension and label of what `_Sums.estimates` gives.
_QUANTITIES = (
    ("diagonal", "coordinate", "diagonal entry"),
    ("row_norm", "coordinate", "norm of a row"),
    ("trace", "parameter", "sum of diagonal entries"),
)


@measurement
def diagonal(
    objective: Objective,
    *,
    operator: Kind = "hessian",
    products: int = 100,
    sample: int = 0,
    seed: int = 0,
    quiet: bool = True,
) -> xarray.Dataset:
    r"""Diagonal entries and row norms of the curvature, each with a standard error, and their sums by parameter.

    Parameters
    ----------
    objective
        The function whose curvature is measured.
    operator
        ``hessian``, ``ggn`` or ``fisher``.
    products
        Random sign vectors, one product each. The error of a diagonal entry is :math:`\lVert A_{i,\ne i}\rVert /
        \sqrt{m}` for *m* of them: a hundred give a tenth of the norm of the rest of its row.
    sample
        Which draw of the dropout masks.
    seed
        Seed of the signs.
    quiet
        No progress bar.

    Returns
    -------
    xarray.Dataset
        Over ``coordinate``: ``diagonal`` and ``row_norm`` with their ``_stderr``, zero where they are exact. Over
        ``parameter``, in the order of the coordinates: ``trace``, the sum of its diagonal entries, with
        ``trace_stderr``; ``size``.

    Raises
    ------
    LandscapeError
        For fewer than two products.

    Examples
    --------
    >>> import torch
    >>> import landscape
    >>> x = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    >>> objective = landscape.Objective(torch.nn.Linear(2, 1, bias=False), (x, x.sum(1)), loss="mse")
    >>> landscape.hessian.diagonal(objective)["diagonal"].values  # of 2 X'X / N = [[2, 1], [1, 1]]
    array([2., 1.])
    """
    if products < 2:
        raise LandscapeError(f"diagonal of {products} product: give 2 or more, whose spread is the error")
    curvature = CurvatureOperator(objective, operator, sample=sample)
    exact = objective.size <= products
    count = objective.size if exact else products
    sums = _Sums(objective)
    with Progress(count, "diagonal", unit="product", quiet=quiet) as bar:
        for vectors in _vectors(objective, count, exact, seed):
            sums.add(vectors, curvature(vectors))
            bar.update(vectors.shape[1])
    unit = f"{objective.loss.unit} per unit of weight squared" if objective.loss.unit != "1" else "1"
    variables: dict[str, object] = {}
    for (name, dimension, what), values in zip(_QUANTITIES, sums.estimates(exact), strict=True):
        for suffix, value, label in zip(("", "_stderr"), values, (what, "its standard error"), strict=True):
            variables[f"{name}{suffix}"] = (dimension, value.cpu().numpy(), {"long_name": label, "units": unit})
    sizes = np.array(objective.space.sizes)
    return xarray.Dataset(
        variables | {"size": ("parameter", sizes, {"long_name": "coordinates", "units": "1"})},
        {"parameter": objective.names},
        attrs=curvature.attributes(exact=int(exact)),
    )


def _vectors(objective: Objective, count: int, exact: bool, seed: int) -> Iterator[Tensor]:
    """All unit vectors, or random signs, as columns (P, k), at most `_TOGETHER` at a time."""
    size, source = objective.size, generator(seed, "diagonal")
    for start in range(0, count, _TOGETHER):
        width = min(_TOGETHER, count - start)
        if exact:
            vectors = torch.zeros(size, width)
            vectors[torch.arange(start, start + width), torch.arange(width)] = 1
        else:
            vectors = torch.randint(2, (size, width), generator=source).float() * 2 - 1
        yield vectors.to(device=objective.device, dtype=objective.dtype)


class _Sums:
    """Sums over draws of the estimates and of their squares: of diagonal entries, squared row norms, and traces."""

    def __init__(self, objective: Objective) -> None:
        shape = (2, objective.size)
        self.sums, self.squares = (torch.zeros(shape, dtype=torch.float64, device=objective.device) for _ in range(2))
        self.traces: list[Tensor] = []
        self._slices = list(objective.space.slices().values())

    def add(self, vectors: Tensor, products: Tensor) -> None:
        """Add the estimates of vectors (P, k) and their products."""
        for vector, product in zip(vectors.T, products.T, strict=True):
            estimates = torch.stack([vector * product, product.square()]).double()
            self.sums += estimates
            self.squares += estimates.square()
            self.traces.append(self._by_parameter(estimates[0]))

    def _by_parameter(self, diagonal: Tensor) -> Tensor:
        """Sums of a diagonal (P,) over the coordinates of each parameter."""
        return torch.stack([diagonal[entries].sum() for entries in self._slices])

    def estimates(self, exact: bool) -> list[tuple[Tensor, Tensor]]:
        """Diagonal, row norms and traces, each with its standard error."""
        count, traces = len(self.traces), torch.stack(self.traces)
        means = self.sums if exact else self.sums / count
        errors = ((self.squares / count - means.square()).clamp(min=0) / (count - 1)).sqrt()
        totals = self._by_parameter(self.sums[0]) if exact else traces.mean(0)
        norms = means[1].sqrt()
        norm_errors = torch.where(norms > 0, errors[1] / (2 * norms), 0.0)
        pairs = [(means[0], errors[0]), (norms, norm_errors), (totals, traces.std(0) / count**0.5)]
        return [(value, torch.zeros_like(error)) for value, error in pairs] if exact else pairs


def table(results: Sequence[xarray.Dataset]) -> str:
    """Trace of each parameter's diagonal entries, per coordinate."""

    def row(name: str) -> tables.Row:
        def cell(result: xarray.Dataset) -> str:
            if name not in result["parameter"].values:
                return ""
            one = result.sel(parameter=name)
            mean, error = (float(one[key]) / int(one["size"]) for key in ("trace", "trace_stderr"))
            return f"{mean:.4g} ± {error:.1g}"

        return name, cell

    names = dict.fromkeys(str(name) for result in results for name in result["parameter"].values)
    rows = [*map(row, names), ("products", tables.attribute("products"))]
    note = (
        "Mean diagonal entry of each parameter; ± is one standard error, for the random vectors. The result file holds "
        "the entry and the norm of the row of every coordinate."
    )
    return tables.side_by_side(results, rows, [note])
