"""The spectrum of one network's curvature: top eigenvalues, trace and density, each with its error."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import xarray

from landscape.compute.progress import Progress
from landscape.compute.settings import measurement
from landscape.eigen import Eigenpairs, Operator, SpectralDensity, eigenpairs, spectral_density, trace
from landscape.eigen.pairs import Which
from landscape.errors import LandscapeError
from landscape.hessian.choices import PARTS, Part
from landscape.hessian.journaled_operator import JournaledOperator
from landscape.hessian.of_sample import beside_sample, pairs_of_sample, work_on_sample
from landscape.hessian.sampling import sampling
from landscape.objective import CurvatureOperator, Objective
from landscape.objective.operators import Kind
from landscape.store.journal import Journal

# Residual of the smallest eigenvalue, see `eigenpairs`. At the edge of a bulk 0.01 takes twice the products.
_SMALLEST = 0.1
Variables = dict[str, object]


@measurement
def spectrum(
    objective: Objective,
    *,
    top: int = 5,
    which: Which = "LA",
    only: Sequence[Part] = PARTS,
    operator: Kind = "hessian",
    tolerance: float = 1e-4,
    trace_products: int = 30,
    probes: int = 3,
    steps: int = 40,
    by_sample: bool = False,
    sample: int = 0,
    seed: int = 0,
    quiet: bool = True,
    keep_vectors: Callable[[Eigenpairs], None] | None = None,
    journal: Journal | None = None,
) -> xarray.Dataset:
    r"""Top eigenvalues, smallest eigenvalue, trace and spectral density of the curvature at the network's weights.

    Parameters
    ----------
    objective
        The function whose curvature is measured.
    top
        Number of eigenvalues.
    which
        ``LA`` the largest, ``SA`` the smallest, ``LM`` the largest in magnitude, ``BE`` both ends.
    only
        Which of ``top``, ``trace`` and ``density`` to measure.
    operator
        ``hessian``, ``ggn`` or ``fisher``; see :class:`landscape.objective.CurvatureOperator`.
    tolerance
        Relative error of the eigenvalues. The default, 1e-4, is what float32 products allow, and far below the error
        for the choice of images.
    trace_products
        Products spent on the trace. 30 give about 1 % on spectra with a few large outliers, and less where the search
        space of the top eigenvalues is reused.
    probes, steps
        Random vectors of the density, and Lanczos steps of each. 3 x 40 show its shape and a band in minutes on a
        laptop; its outliers are exact in any case, since the top eigenpairs are deflated.
    by_sample
        Compute the eigenvectors on a twentieth of the examples first (at least 1,024, where there are four times as
        many), and refine them on all. Saves products of all examples where the top eigenvalues converge slowly; the
        smallest eigenvalue, at the edge of a bulk, may take as many as it saves, so it is not the default.
    sample
        Which draw of the dropout masks.
    seed
        Seed of the starting and probe vectors.
    quiet
        No progress bar.
    keep_vectors
        Called with the top eigenpairs, whose vectors are not in the result.
    journal
        Saves products that take long: after an interruption, the same call with the same journal resumes from the last.

    Returns
    -------
    xarray.Dataset
        ``eigenvalue`` (rank) with ``residual`` (the true eigenvalue lies within it), ``error`` (the sharper estimate
        that `tolerance` is compared with, and what rounding in the products adds) and ``converged``;
        ``sampling_stderr``, ``eigenvalue_low``, ``eigenvalue_high`` and ``sampling_bias``, the error for the choice of
        images (`landscape.hessian.sampling.Sampling`); ``smallest_eigenvalue``, a bound from above: an eigenvalue lies
        within ``smallest_residual`` of it, but at the edge of a bulk smaller ones may have been missed (with `which`
        ``SA`` or ``BE`` it is as sure and as sharp as the others); ``trace`` with ``trace_stderr``
        and ``l2_trace``, the part of the L2 term; ``node``, ``weight`` and ``node_residual`` (probe, quadrature_node)
        of the density, of total weight 1 per probe, see `density_of`. With `by_sample`, the attributes
        ``sample_images`` and ``sample_products`` are the size of the sample and the products on it, which are not
        among ``products``.

    Raises
    ------
    LandscapeError
        For unknown parts, or when a product is not finite.

    Examples
    --------
    >>> import landscape
    >>> model, protocol = landscape.build("resnet_dnn_18", num_classes=10, width=2), landscape.Protocol(images=16)
    >>> objective = landscape.Objective(model, landscape.data.load("digits", "train"), protocol=protocol)
    >>> result = spectrum(objective, top=2, only=["top"])
    >>> result["eigenvalue"].dims, bool(result["eigenvalue"][0] >= result["eigenvalue"][1])
    (('rank',), True)
    """
    unknown = [part for part in only if part not in PARTS]
    if unknown or not only:
        raise LandscapeError(f"unknown part {', '.join(unknown) or '(none)'}: choose among {', '.join(PARTS)}")
    curvature = CurvatureOperator(beside_sample(objective) if by_sample else objective, operator, sample=sample)
    source: Operator = curvature if journal is None else JournaledOperator(curvature, journal)
    variables: Variables = {}
    attributes: dict[str, object] = {"which": which}
    pairs: Eigenpairs | None = None
    if "top" in only or "density" in only:
        smallest = max(tolerance, _SMALLEST) if "top" in only else None
        near = None
        if by_sample:
            near = pairs_of_sample(
                curvature, top, which=which, smallest=smallest, sample=sample, seed=seed, quiet=quiet, show=show_on
            )
        with Progress(None, "eigenvalues", unit="product", quiet=quiet) as bar:
            pairs = eigenpairs(
                source,
                top,
                which=which,
                tolerance=tolerance,
                smallest=smallest,
                near=near,
                keep_space="trace" in only,
                seed=seed,
                callback=show_on(bar, source),
            )
        attributes |= work_on_sample(near)
        del near
    if "top" in only and pairs is not None:
        if keep_vectors is not None:
            keep_vectors(pairs)
        variables |= _top_variables(pairs) | sampling(curvature, pairs.values, pairs.vectors, sample=sample).variables()
    if "trace" in only:
        variables |= _trace_variables(curvature, source, pairs, trace_products, seed, quiet)
        pairs = None if pairs is None else dataclasses.replace(pairs, space=None)  # frees its memory
    if "density" in only:
        with Progress(probes * steps, "density", unit="product", quiet=quiet) as bar:
            callback = _count_on(bar, source)
            density = spectral_density(source, probes=probes, steps=steps, seed=seed, deflate=pairs, callback=callback)
        variables |= _density_variables(density)
        attributes["density_points"] = density.points
    return objective.in_unit(xarray.Dataset(variables, attrs=attributes | _work(curvature, source)))


def _work(curvature: CurvatureOperator, source: Operator) -> dict[str, object]:
    """Size of the problem, and the products that it took, including those of an earlier run."""
    facts = curvature.attributes(left_out=len(curvature.objective.left_out), plan=str(curvature.plan))
    if isinstance(source, JournaledOperator):
        facts |= {"products": curvature.products + source.restored, "seconds_before": source.restored_seconds}
    return facts


def _trace_variables(
    curvature: CurvatureOperator, source: Operator, pairs: Eigenpairs | None, products: int, seed: int, quiet: bool
) -> Variables:
    """The trace, from the search space of the eigenpairs where there is one, and the L2 term's part of it."""
    with Progress(products, "trace", unit="product", quiet=quiet) as bar:
        space = None if pairs is None else pairs.space
        estimate = trace(source, products=products, seed=seed, space=space, callback=_count_on(bar, source))
    objective = curvature.objective
    l2 = objective.l2.trace(objective.weights().parameters) if curvature.kind != "fisher" else 0.0
    return {"trace": ((), estimate.value), "trace_stderr": ((), estimate.stderr), "l2_trace": ((), l2)}


def _density_variables(density: SpectralDensity) -> Variables:
    """Nodes and weights of the density, which `density_of` reads."""
    columns = {"node": density.nodes, "weight": density.weights, "node_residual": density.residuals}
    return {name: (("probe", "quadrature_node"), values) for name, values in columns.items()}


def _top_variables(pairs: Eigenpairs) -> Variables:
    """Eigenvalues with what is known about their errors, over ``rank``."""
    return {
        "rank": np.arange(1, len(pairs.values) + 1),
        "eigenvalue": ("rank", pairs.values, {"long_name": "eigenvalue", "units": "nats"}),
        "residual": ("rank", pairs.residuals, {"long_name": "bound |lambda - eigenvalue|"}),
        "error": ("rank", pairs.errors, {"long_name": "estimate of |lambda - eigenvalue|, rounding included"}),
        "converged": ("rank", pairs.converged.astype(np.int8)),
        "smallest_eigenvalue": ((), pairs.smallest),
        "smallest_residual": ((), pairs.smallest_residual),
        "missed_probability": ((), pairs.missed_probability),
    }


def show_on(bar: Progress, source: Operator | None = None) -> Callable[[int, np.ndarray, np.ndarray, int | None], None]:
    """A callback of :func:`landscape.eigen.eigenpairs` that shows the leading value and the products still expected."""
    advance = _advance(bar, source)

    def show(products: int, values: np.ndarray, residuals: np.ndarray, left: int | None) -> None:
        new = products - bar.done
        bar.expect(None if left is None else left + new)
        advance(new, leading=f"{values[0]:.4g} ± {residuals[0]:.1g}" if len(values) else "-")

    return show


def _count_on(bar: Progress, source: Operator) -> Callable[[int], None]:
    """A callback that takes the number of products so far."""
    advance = _advance(bar, source)
    return lambda done: advance(done - bar.done)


def _advance(bar: Progress, source: Operator | None) -> Callable[..., None]:
    """`Progress.update`, with products from an earlier run's journal counted as resumed."""
    before = source.restored if isinstance(source, JournaledOperator) else 0

    def advance(steps: int, **facts: object) -> None:
        nonlocal before
        now = source.restored if isinstance(source, JournaledOperator) else 0
        bar.resumed(now - before)
        bar.update(steps - (now - before), **facts)
        before = now

    return advance


def density_of(result: xarray.Dataset) -> SpectralDensity:
    """The spectral density of a result, as an object with methods (curve, mass above a threshold)."""
    return SpectralDensity(
        nodes=result["node"].values,
        weights=result["weight"].values,
        residuals=result["node_residual"].values,
        points=int(result.attrs["density_points"]),
        size=int(result.attrs["parameters"]),
        products=int(result.attrs["products"]),
    )
