import numpy as np
import pytest
import torch
from eigen_problems import digits_hessian, hessian_like, with_spectrum

from landscape.eigen import dense, eigenpairs, frobenius, moments, trace
from landscape.errors import LandscapeError

METHODS = ["krylov", "xtrace", "hutch++", "hutchinson"]


@pytest.mark.parametrize("method", METHODS)
def test_stated_errors_cover_the_truth(method: str) -> None:
    spectrum = hessian_like(90)
    operator = dense(torch.diag(torch.from_numpy(spectrum)))
    estimates = [moments(operator, method=method, products=30, seed=seed) for seed in range(400)]
    held = [abs(e.trace.value - spectrum.sum()) <= 1.96 * e.trace.stderr for e in estimates]
    assert 0.92 <= np.mean(held) <= 0.98
    norm = np.linalg.norm(spectrum)
    held = [abs(e.frobenius.value - norm) <= 1.96 * e.frobenius.stderr for e in estimates]
    assert 0.87 <= np.mean(held) <= 0.995


def test_thirty_products_give_one_percent() -> None:
    spectrum = hessian_like(1230)
    operator = dense(with_spectrum(spectrum))
    errors = [abs(trace(operator, products=30, seed=seed).value / spectrum.sum() - 1) for seed in range(40)]
    assert np.median(errors) <= 0.0125


def test_the_search_space_of_the_top_eigenvalues_sharpens_the_trace() -> None:
    hessian = digits_hessian()
    operator = dense(hessian)
    truth, norm = float(hessian.trace()), float(hessian.norm())
    alone, after, norms = [], [], []
    for seed in range(40):
        space = eigenpairs(operator, 5, seed=seed, keep_space=True).space
        found = moments(operator, products=30, seed=seed, space=space)
        assert found.trace.products == 30
        after.append((found.trace.value - truth, found.trace.stderr))
        norms.append(abs(found.frobenius.value / norm - 1))
        alone.append(trace(operator, products=30, seed=seed).value - truth)
    assert np.median(np.abs([off for off, _ in after])) < 0.75 * np.median(np.abs(alone))
    assert np.mean([abs(off) <= 1.96 * stderr for off, stderr in after]) >= 0.85
    assert max(norms) < 0.02


def test_a_space_that_is_everything_leaves_nothing_to_estimate() -> None:
    matrix = with_spectrum(np.r_[np.arange(1.0, 9.0), np.zeros(42)])
    space = eigenpairs(dense(matrix), 50, keep_space=True).space
    found = moments(dense(matrix), products=30, space=space)
    assert found.trace.value == pytest.approx(36)
    assert found.frobenius.value == pytest.approx(float(matrix.norm()))
    assert found.trace.stderr == 0
    with pytest.raises(LandscapeError, match="the space is of dimension 50, the operator of 100"):
        trace(dense(with_spectrum(hessian_like(100))), space=space)


def test_krylov_beats_its_peers_on_a_real_hessian() -> None:
    hessian = digits_hessian()
    truth = float(hessian.trace())

    def median(method: str) -> float:
        values = [trace(dense(hessian), method=method, seed=seed).value for seed in range(25)]
        return float(np.median(np.abs(np.array(values) / truth - 1)))

    assert median("krylov") < 0.75 * median("hutch++")
    assert median("krylov") < 0.5 * median("hutchinson")


@pytest.mark.parametrize("method", METHODS)
def test_it_stops_at_the_wanted_error(method: str) -> None:
    spectrum = hessian_like(300)
    operator = dense(with_spectrum(spectrum))
    estimates = [trace(operator, method=method, products=250, tolerance=0.05, seed=seed) for seed in range(20)]
    if method != "hutchinson":
        assert np.mean([e.products for e in estimates]) < 250
    assert all(1.96 * e.stderr <= 0.05 * abs(e.value) for e in estimates if e.products < 249)
    assert np.mean([abs(e.value / spectrum.sum() - 1) <= 0.05 for e in estimates]) >= 0.8


@pytest.mark.parametrize("method", METHODS)
def test_low_rank_and_zero_operators(method: str) -> None:
    rank_three = np.r_[5.0, -3.0, 1.0, np.zeros(60)]
    estimate = trace(dense(with_spectrum(rank_three)), method=method)
    assert abs(estimate.value - 3) <= 6 * estimate.stderr + 1e-9
    assert trace(dense(torch.zeros(50, 50)), method=method).value == 0
    assert frobenius(dense(torch.zeros(50, 50)), method=method).value == 0


def test_as_many_products_as_dimensions_are_exact() -> None:
    matrix = with_spectrum(np.array([4.0, -3.0]))
    assert trace(dense(matrix)).value == pytest.approx(1)
    assert trace(dense(matrix)).stderr == 0
    assert frobenius(dense(matrix)).value == pytest.approx(5)


def test_interval_widens_with_level_and_bad_settings_are_refused() -> None:
    estimate = trace(dense(with_spectrum(hessian_like(100))), products=20)
    low, high = estimate.interval()
    assert high - estimate.value == pytest.approx(1.96 * estimate.stderr, rel=1e-3)
    assert estimate.interval(0.99)[0] < low
    with pytest.raises(LandscapeError, match="too few"):
        trace(dense(with_spectrum(hessian_like(100))), products=3)
    with pytest.raises(LandscapeError, match="choose krylov"):
        trace(dense(with_spectrum(hessian_like(100))), method="power")  # type: ignore[arg-type]
    with pytest.raises(LandscapeError, match="tolerance is 0"):
        trace(dense(with_spectrum(hessian_like(100))), tolerance=0)
