"""Intervals of eigenvalues for the choice of images hold the population's."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from landscape.compute.randomness import numpy_generator
from landscape.hessian.sampling import FEWEST, GROUPS, Sampling, interval, sampling

POPULATION = 1440


class Sample:
    """Curvature of a sample of images, whose own is of rank one; stands in for a `CurvatureOperator`."""

    def __init__(self, factors: np.ndarray, group: int | None = None) -> None:
        self.factors, self.group = torch.from_numpy(factors), group or max(1, len(factors) // GROUPS)
        self.objective = SimpleNamespace(
            images=len(factors),
            population=POPULATION,
            micro_batch=self.group,
            reduced=lambda value: value,
            has_batch_norm=False,
            random_order=lambda: None,
        )

    def batch_projections(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        groups = self.factors.split(self.group)
        projected = [(part @ vectors).T @ (part @ vectors) / len(part) for part in groups]
        return torch.stack(projected), torch.arange(len(groups)), torch.tensor([len(part) for part in groups])

    def result(self, top: int = 2) -> tuple[np.ndarray, Sampling]:
        values, vectors = torch.linalg.eigh(self.factors.T @ self.factors / len(self.factors))
        values, vectors = values.flip(0)[:top].numpy(), vectors.flip(1)[:, :top]
        stand_in: Any = self
        return values, sampling(stand_in, values, vectors)


def factors(size: int, tail: float) -> np.ndarray:
    """One row per image, of lognormal length: with a heavy tail a few images carry most of the largest eigenvalue."""
    source = numpy_generator(3, "factors")
    rows = source.standard_normal((POPULATION, size)) * np.linspace(1.5, 0.5, size)
    return np.asarray(rows * np.exp(tail / 2 * source.standard_normal(POPULATION))[:, None])


@pytest.mark.parametrize(("size", "tail"), [(30, 2.5), (8, 1.0)])
def test_intervals_cover_the_populations_eigenvalues(size: int, tail: float) -> None:
    rows = factors(size, tail)
    truth = np.linalg.eigvalsh(rows.T @ rows / POPULATION)[::-1][:2]
    source = numpy_generator(4, "samples")
    held, plain, bias, excess = [], [], [], []
    for _ in range(200):
        values, found = Sample(rows[source.permutation(POPULATION)[:192]]).result()
        held.append((found.low <= truth) & (truth <= found.high))
        plain.append(np.abs(values - truth) <= 1.96 * found.stderr)
        bias.append(found.bias[0])
        excess.append(values[0] - truth[0])
    # 200 samples: a true 95 % is seen in 90.5 to 99.5 % of them (3 sigma).
    assert (np.mean(held, axis=0) >= 0.905).all(), np.mean(held, axis=0)
    if tail == 2.5:
        assert (np.mean(plain, axis=0) < 0.89).all()
    # Of the excess, the part within the span of the two eigenvectors.
    assert 0.1 * np.mean(excess) < np.mean(bias) < np.mean(excess)


def test_few_images_get_no_interval_and_all_images_no_error() -> None:
    rows = factors(8, 1.0)
    values, found = Sample(rows[: FEWEST - 1]).result()
    assert np.isnan(found.low).all()
    assert (found.stderr > 0).all()
    values, found = Sample(rows).result()
    assert (found.stderr == 0).all()
    assert (found.low == values).all()
    assert (found.high == values).all()
    _, found = Sample(rows[:1], group=1).result(top=1)
    assert np.isnan(found.stderr).all()


def test_the_bias_of_halves_is_extrapolated() -> None:
    """Of halves that differ by hand: eigenvalues 4 and 2 of the halves, 3 of the whole."""
    rows = np.zeros((POPULATION // 2, 2))
    rows[::2, 0], rows[1::2, 1] = np.sqrt(8.0), np.sqrt(4.0)
    values, found = Sample(rows, group=1).result()
    assert values == pytest.approx([4.0, 2.0])
    # The first Walsh function takes every other image: 8 and 4 instead of 4 and 2; most others halve both alike.
    assert found.bias[0] == pytest.approx(0.5 * ((8 + 4) / 2 - 4) / 15)
    assert found.stderr[0] == pytest.approx(np.sqrt(0.5 * 16 / (POPULATION // 2 - 1)))


def test_older_results_get_the_interval_of_their_standard_error() -> None:
    import xarray

    old = xarray.Dataset({"eigenvalue": ("rank", [4.0]), "sampling_stderr": ("rank", [1.0])})
    assert interval(old)[1] == pytest.approx([5.96], abs=1e-2)
