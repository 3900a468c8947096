"""Eigenpairs of many examples: sought on a sample of them, corrected on all (`landscape.eigen.neighbour`)."""

from collections.abc import Callable

from landscape.compute.progress import Progress
from landscape.eigen import Eigenpairs, eigenpairs
from landscape.eigen.pairs import Callback, Which
from landscape.objective import CurvatureOperator, Objective

# A twentieth of the examples, at least 1,024, where there are four times as many. That decides results, within their
# bounds, and so depends on nothing but the number of examples.
_PART, _LEAST, _TIMES = 20, 1024, 4
# The sample's eigenvectors are off by some percent for the choice of examples, so that nothing sharper helps.
_TOLERANCE = 1e-3


def sample_size(examples: int) -> int | None:
    """Examples on which eigenvectors are sought first; None where there are too few for that."""
    count = max(_LEAST, examples // _PART)
    return count if examples >= _TIMES * count else None


def beside_sample(objective: Objective) -> Objective:
    """The same function, a quarter of its budget left for the graphs of a sample if one comes first."""
    if objective.memory is None or sample_size(objective.images) is None:
        return objective
    return objective.within(objective.memory - objective.memory // 4)


def pairs_of_sample(
    curvature: CurvatureOperator,
    top: int,
    *,
    which: Which,
    smallest: float | None,
    sample: int,
    seed: int,
    quiet: bool,
    show: Callable[[Progress], Callback],
) -> Eigenpairs | None:
    """Eigenpairs of the same matrix of a sample of the examples, for `eigenpairs(near=)`; None where it does not pay.

    Parameters
    ----------
    curvature
        The matrix of all examples.
    top, which, smallest, seed
        As `landscape.eigen.eigenpairs` is asked for; one pair more is sought.
    sample
        Which draw of the dropout masks.
    quiet, show
        No progress bar; what shows the search on it.
    """
    count = sample_size(curvature.objective.images)
    # The low end is the edge of a bulk, where a sample's eigenvectors say little of those of all the examples.
    if count is None or which in ("SA", "BE") or top + 1 >= curvature.size:
        return None
    objective = curvature.objective.sampled(count, seed=seed)
    if objective.memory is not None:
        objective = objective.within(objective.memory // 3)  # a quarter of the whole: see `beside_sample`
    if not objective.terms > 0:
        return None
    few = CurvatureOperator(objective, curvature.kind, sample=sample)
    with Progress(None, f"on {count:,} {objective.kind_of_examples}", unit="product", quiet=quiet) as bar:
        return eigenpairs(
            few,
            top + 1,
            which=which,
            tolerance=_TOLERANCE,
            smallest=smallest,
            keep_space=True,
            seed=seed,
            confidence=0,
            callback=show(bar),
        )


def work_on_sample(near: Eigenpairs | None) -> dict[str, object]:
    """Examples and products of the sample, as attributes of a result; nothing without one."""
    if near is None or near.space is None:
        return {}
    few = near.space.products.operator
    assert isinstance(few, CurvatureOperator)
    return {"sample_images": few.objective.images, "sample_products": few.products}
