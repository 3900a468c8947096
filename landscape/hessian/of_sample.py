"""Eigenpairs of many examples: first of a sample of them, then refined on all (`landscape.eigen.neighbour`)."""

from collections.abc import Callable

from landscape.compute.progress import Progress
from landscape.eigen import Eigenpairs, eigenpairs
from landscape.eigen.pairs import Callback, Which
from landscape.objective import CurvatureOperator, Objective

# A twentieth of the examples, at least 1,024, where there are four times as many. That decides results, within their
# bounds, and so depends on nothing but the number of examples.
_PART, _LEAST, _TIMES = 20, 1024, 4
# The choice of examples changes the eigenvectors by some percent, so that nothing sharper helps.
_TOLERANCE = 1e-3


def sample_size(examples: int) -> int | None:
    """Number of examples in the sample that comes first; None where there are too few examples for one."""
    count = max(_LEAST, examples // _PART)
    return count if examples >= _TIMES * count else None


def beside_sample(objective: Objective) -> Objective:
    """The same function, with a quarter of its memory left for the graphs of the sample, if one comes first."""
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
    """Eigenpairs of the same matrix on a sample of the examples, for `eigenpairs(near=)`; None where it does not pay.

    Parameters
    ----------
    curvature
        The matrix of all examples.
    top, which, smallest, seed
        Arguments of `landscape.eigen.eigenpairs`; one more pair than `top` is computed.
    sample
        Which draw of the dropout masks.
    quiet, show
        No progress bar; makes the callback that shows the solver's progress on the bar.
    """
    count = sample_size(curvature.objective.images)
    # The low end is the edge of a bulk, where a sample's eigenvectors say little about those of all examples.
    if count is None or which in ("SA", "BE") or top + 1 >= curvature.size:
        return None
    objective = curvature.objective.sampled(count, seed=seed)
    if objective.memory is not None:
        objective = objective.within(objective.memory // 3)  # a quarter of all: see `beside_sample`
    if not objective.terms > 0:
        return None
    of_sample = CurvatureOperator(objective, curvature.kind, sample=sample)
    with Progress(None, f"on {count:,} {objective.kind_of_examples}", unit="product", quiet=quiet) as bar:
        return eigenpairs(
            of_sample,
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
    of_sample = near.space.products.operator
    assert isinstance(of_sample, CurvatureOperator)
    return {"sample_images": of_sample.objective.images, "sample_products": of_sample.products}
