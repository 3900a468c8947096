"""Curvature block by block: which parts of the network it comes from."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray
from matplotlib.figure import Figure

from landscape import plotting, tables
from landscape.compute.progress import Progress
from landscape.compute.randomness import derived_seed
from landscape.compute.settings import measurement
from landscape.eigen import eigenpairs, trace
from landscape.objective import CurvatureOperator, Objective
from landscape.objective.operators import Kind
from landscape.store.vocabulary import with_unit


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
    r"""Top eigenvalue and trace of every diagonal block of the curvature, and the blocks' shares in its eigenvectors.

    The block of parameters *b* is :math:`E_b^\top A E_b`, the curvature when all other parameters are held. Traces of
    the blocks add up to the trace; their largest eigenvalue is a lower bound of the largest (Cauchy interlacing). A
    block's share in eigenvector *v* is :math:`\lVert E_b^\top v\rVert^2`; shares add up to 1.

    Parameters
    ----------
    objective
        The function whose curvature is measured.
    depth
        What a block is; see `named_blocks`.
    top
        Number of eigenvectors of which the blocks' shares are given.
    operator
        ``hessian``, ``ggn`` or ``fisher``.
    tolerance
        Relative error of the eigenvalues.
    trace_products
        Products spent on the trace of each block; as many as it has parameters where these are fewer.
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
    curvature = CurvatureOperator(objective, operator, sample=sample)
    products = 0
    rows: dict[str, list[float]] = {name: [] for name in ("eigenvalue", "residual", "trace", "trace_stderr")}
    sizes: list[int] = []
    with Progress(len(blocks) + 1, "blocks", unit="block", quiet=quiet) as bar:
        pairs = eigenpairs(curvature, top, tolerance=tolerance, seed=seed)
        bar.update(block="all")
        for name, members in blocks.items():
            block = CurvatureOperator(objective.restricted(members), operator, sample=sample)
            own_seed = derived_seed(seed, "block", name)
            largest = eigenpairs(block, 1, tolerance=tolerance, seed=own_seed, keep_space=True)
            estimate = trace(block, products=trace_products, seed=own_seed, space=largest.space)
            values = largest.values[0], largest.residuals[0], estimate.value, estimate.stderr
            for row, value in zip(rows.values(), values, strict=True):
                row.append(float(value))
            sizes.append(block.size)
            products += block.products
            bar.update(block=name)
    slices, squares = objective.space.slices(), pairs.vectors.double().square()
    by_parameter = {name: squares[entries].sum(0).cpu().numpy() for name, entries in slices.items()}
    shares = np.array([np.sum([by_parameter[name] for name in members], axis=0) for members in blocks.values()])
    return xarray.Dataset(
        {
            **{f"block_{key}": ("block", np.array(values)) for key, values in rows.items()},
            "block_parameters": ("block", np.array(sizes)),
            "eigenvalue": ("rank", pairs.values),
            "residual": ("rank", pairs.residuals),
            "share": (("rank", "block"), shares.T),
        },
        {"block": list(blocks), "rank": np.arange(1, len(pairs.values) + 1)},
        attrs=curvature.attributes(depth=depth, products=curvature.products + products),
    )


def table(results: Sequence[xarray.Dataset]) -> str:
    """One table per network: one row per block."""
    parts = []
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
                str(block["block"].item()),
                f"{int(block['block_parameters']):,}",
                tables.value("block_eigenvalue", ".4g", "block_residual")(block),
                tables.value("block_trace", ".4g", "block_trace_stderr")(block),
                *[f"{float(share):.1%}" for share in block["share"]],
            ]
            for block in (result.isel(block=index) for index in range(result.sizes["block"]))
        ]
        values = ", ".join(f"{value:.4g}" for value in result["eigenvalue"].values)
        parts.append(tables.columns(head, rows) + f"\neigenvalues of all blocks together: {values}")
    note = "± is a bound for eigenvalues, one standard error for traces; shares of an eigenvector add up to 100 %."
    return "\n\n".join([*parts, note])


def draw(results: Sequence[xarray.Dataset], path: Path | None = None) -> Figure:
    """Top eigenvalue of each block on a log axis, and its share in the first eigenvector."""
    with plotting.style():
        figure = plotting.figure(plotting.TWO_COLUMNS, 4.0)
        above, below = figure.subplots(2, 1, sharex=True)
        for result, look in zip(results, plotting.labels(results), strict=True):
            names = [plotting.plain(name) for name in result["block"].values]
            above.plot(names, result["block_eigenvalue"], look.marker, color=look.color, label=look.label)
            below.plot(names, result["share"][0], look.marker, color=look.color)
        plotting.log_scale(above, "y")
        above.set_ylabel(with_unit("top eigenvalue", results))
        below.set_ylabel("share of the first\neigenvector")
        below.set_ylim(0, None)
        below.tick_params(axis="x", rotation=60)
        plotting.letter([above, below])
        plotting.below(figure, above)
    return plotting.finished(figure, path, results)
