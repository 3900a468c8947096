"""Curvature block by block: where in the network it is."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray
from matplotlib.figure import Figure

from landscape import plotting
from landscape.compute.progress import Progress
from landscape.compute.randomness import derived_seed
from landscape.compute.settings import measurement
from landscape.eigen import eigenpairs, trace
from landscape.objective import CurvatureOperator, Objective
from landscape.objective.operators import Kind
from landscape.store.vocabulary import with_unit
from landscape.tables import columns


def named_blocks(names: Sequence[str], depth: int = 2) -> dict[str, list[str]]:
    """Parameters by block: those whose modules' names agree in the first `depth` parts.

    Parameters
    ----------
    names
        Of parameters, e.g. ``layer1.0.conv1.weight``.
    depth
        2 makes residual blocks of the paper's networks (``layer1.0``), 1 stages (``layer1``), a large number layers.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        module = name.split(".")[:-1] or [name]
        groups.setdefault(".".join(module[:depth]), []).append(name)
    return groups


@measurement
def block_spectra(
    objective: Objective,
    *,
    depth: int = 2,
    top: int = 5,
    operator: Kind = "hessian",
    tolerance: float = 1e-3,
    trace_products: int = 30,
    sample: int = 0,
    seed: int = 0,
    quiet: bool = True,
) -> xarray.Dataset:
    r"""Top eigenvalue and trace of every diagonal block of the curvature, and the blocks' shares in the whole's top.

    The block of parameters *b* is :math:`E_b^\top A E_b`, the curvature when all other parameters stay where they are.
    Traces add up to the whole's; the largest block eigenvalue is a lower bound of the whole's (Cauchy interlacing). A
    block's share in eigenvector *v* is :math:`\lVert E_b^\top v\rVert^2`; shares add up to 1.

    Parameters
    ----------
    objective
        The function whose curvature is measured.
    depth
        What a block is; see `named_blocks`.
    top
        Number of the whole curvature's eigenvectors that are shared out.
    operator
        ``hessian``, ``ggn`` or ``fisher``.
    tolerance
        Relative error of the eigenvalues.
    trace_products
        Products spent on the trace of each block; all there are when a block has fewer parameters.
    sample
        Which draw of the dropout masks.
    seed
        Of starting vectors and probes; every block has a stream of its own.
    quiet
        No progress bar.

    Returns
    -------
    xarray.Dataset
        Over ``block``: ``block_eigenvalue`` with ``block_residual``, ``block_trace`` with ``block_trace_stderr``,
        ``block_parameters``. Over ``rank``: ``eigenvalue``, ``residual``; ``share`` (rank, block).
    """
    blocks = named_blocks(objective.names, depth)
    whole = CurvatureOperator(objective, operator, sample=sample)
    products = 0
    rows: dict[str, list[float]] = {name: [] for name in ("eigenvalue", "residual", "trace", "trace_stderr")}
    with Progress(len(blocks) + 1, "blocks", unit="block", quiet=quiet) as bar:
        pairs = eigenpairs(whole, top, tolerance=tolerance, seed=seed)
        bar.update(block="all")
        for name, members in blocks.items():
            part = CurvatureOperator(objective.restricted(members), operator, sample=sample)
            own_seed = derived_seed(seed, "block", name)
            largest = eigenpairs(part, 1, tolerance=tolerance, seed=own_seed, keep_space=True)
            estimate = trace(part, products=trace_products, seed=own_seed, space=largest.space)
            for key, value in zip(
                rows, (largest.values[0], largest.residuals[0], estimate.value, estimate.stderr), strict=True
            ):
                rows[key].append(float(value))
            products += part.products
            bar.update(block=name)
    places = objective.space.slices()
    squares = pairs.vectors.double().square()
    shares = np.array(
        [
            np.sum([squares[places[name]].sum(0).cpu().numpy() for name in members], axis=0)
            for members in blocks.values()
        ]
    )
    sizes = [sum(places[name].stop - places[name].start for name in members) for members in blocks.values()]
    return xarray.Dataset(
        {
            **{f"block_{key}": ("block", np.array(values)) for key, values in rows.items()},
            "block_parameters": ("block", np.array(sizes)),
            "eigenvalue": ("rank", pairs.values),
            "residual": ("rank", pairs.residuals),
            "share": (("rank", "block"), shares.T),
        },
        {"block": list(blocks), "rank": np.arange(1, len(pairs.values) + 1)},
        attrs={
            "operator": operator,
            "depth": depth,
            "products": whole.products + products,
            "parameters": objective.size,
            "images": objective.images,
        },
    )


def table(results: Sequence[xarray.Dataset]) -> str:
    """One table per network: one row per block."""
    tables = []
    for result in results:
        head = [
            str(result.attrs.get("name", "")),
            "parameters",
            "top eigenvalue",
            "trace",
            *[f"share of vector {rank}" for rank in result["rank"].values],
        ]
        rows = [
            [
                str(one["block"].item()),
                f"{int(one['block_parameters']):,}",
                f"{float(one['block_eigenvalue']):.4g} ± {float(one['block_residual']):.1g}",
                f"{float(one['block_trace']):.4g} ± {float(one['block_trace_stderr']):.1g}",
                *[f"{float(fraction):.1%}" for fraction in one["share"]],
            ]
            for one in (result.isel(block=index) for index in range(result.sizes["block"]))
        ]
        values = ", ".join(f"{value:.4g}" for value in result["eigenvalue"].values)
        tables.append(columns(head, rows) + f"\neigenvalues of the whole: {values}")
    note = "± is a bound for eigenvalues, one standard error for traces; shares of an eigenvector add up to 100 %."
    return "\n\n".join([*tables, note])


def draw(results: Sequence[xarray.Dataset], path: Path | None = None) -> Figure:
    """Top eigenvalue of each block on a log axis, and its share in the first eigenvector."""
    with plotting.style():
        figure = plotting.figure(plotting.TWO_COLUMNS, 4.0)
        above, below = figure.subplots(2, 1, sharex=True)
        for result, look in zip(results, plotting.labels(results), strict=True):
            names = [plotting.plain(name) for name in result["block"].values]
            above.plot(names, result["block_eigenvalue"], look.marker, color=look.color, label=look.label)
            below.plot(names, result["share"][0], look.marker, color=look.color)
        above.set_yscale("log")
        above.set_ylabel(with_unit("top eigenvalue", results))
        below.set_ylabel("share of the first\neigenvector")
        below.set_ylim(0, None)
        below.tick_params(axis="x", rotation=60)
        plotting.letter([above, below])
        plotting.below(figure, above)
    if path is not None:
        plotting.save(figure, path, {"command": results[0].attrs.get("command", "")})
    return figure
