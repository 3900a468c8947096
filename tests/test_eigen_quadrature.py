import numpy as np
import pytest
import torch
from eigen_problems import digits_hessian, hessian_like, with_spectrum
from scipy.stats import wasserstein_distance

from landscape.compute.randomness import numpy_generator
from landscape.eigen import SpectralDensity, dense, eigenpairs, spectral_density
from landscape.errors import LandscapeError


def distance(density: SpectralDensity, exact: np.ndarray) -> float:
    return wasserstein_distance(density.nodes.ravel(), exact, density.weights.ravel()) / np.ptp(exact)


def drawn_distance(density: SpectralDensity, exact: np.ndarray, scale: str) -> float:
    curve = density.on_grid(density.grid(scale=scale))
    return wasserstein_distance(curve.centres, exact, curve.density * np.diff(curve.edges)) / np.ptp(exact)


def test_density_of_a_real_hessian_is_near_its_exact_spectrum() -> None:
    hessian = digits_hessian()
    exact = np.linalg.eigvalsh(hessian.numpy())
    density = spectral_density(dense(hessian), probes=10, steps=100)
    classical = spectral_density(dense(hessian), probes=10, steps=100, lock=0)
    assert density.products == classical.products == 1000
    assert distance(density, exact) <= 3e-4
    assert distance(density, exact) <= distance(classical, exact) / 2
    assert drawn_distance(density, exact, "linear") <= 6e-4
    assert drawn_distance(density, exact, "symlog") <= 6e-4


def test_an_outlier_cluster_is_counted_right() -> None:
    spectrum = np.r_[10 + 0.1 * np.arange(9), 50, hessian_like(400)[10:]]
    for probes in (1, 4):
        count = spectral_density(dense(with_spectrum(spectrum)), probes=probes, steps=60).count_above(5)
        assert count.value == pytest.approx(10, abs=1e-9)
        assert count.stderr == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("scale", ["linear", "symlog"])
def test_the_drawn_curve_has_mass_one_and_a_peak_at_an_isolated_eigenvalue(scale: str) -> None:
    density = spectral_density(dense(with_spectrum(np.r_[7.0, np.linspace(-1, 1, 199)])), probes=5, steps=50)
    curve = density.on_grid(density.grid(500, scale))
    mass = curve.density * np.diff(curve.edges)
    assert mass.sum() == pytest.approx(1, abs=1e-12)
    far = curve.centres > 3
    assert mass[far].sum() == pytest.approx(1 / 200, rel=1e-6)
    peak = curve.centres[far][np.argmax(curve.density[far])]
    assert abs(peak - 7) <= np.diff(curve.edges).max()
    assert (curve.lower <= curve.density).all()
    assert (curve.density <= curve.upper).all()


def test_band_covers_the_curve_of_many_probes() -> None:
    operator = dense(with_spectrum(hessian_like(120)))
    edges = spectral_density(operator, probes=1, steps=30).grid(25)
    truth = spectral_density(operator, probes=200, steps=30, seed=99, lock=0).on_grid(edges).density
    inside = []
    for seed in range(30):
        curve = spectral_density(operator, probes=10, steps=30, seed=seed, lock=0).on_grid(edges)
        held = truth * np.diff(edges) > 0.01
        inside.append(((curve.lower <= truth) & (truth <= curve.upper))[held])
    assert 0.88 <= np.mean(inside) <= 0.99


def test_stated_intervals_of_the_mass_cover_the_truth() -> None:
    spectrum = np.sort(numpy_generator(5, "mass").standard_normal(60))
    operator = dense(torch.diag(torch.from_numpy(spectrum)))
    held = []
    for seed in range(400):
        mass = spectral_density(operator, probes=5, steps=25, seed=seed).mass_above(0.1)
        held.append(abs(mass.value - (spectrum > 0.1).mean()) <= 1.96 * mass.stderr)
    assert 0.92 <= np.mean(held) <= 0.98


@pytest.mark.parametrize(
    ("spectrum", "threshold"),
    [
        # A bulk narrower than the residual at which a pair far out counts as converged.
        (np.r_[np.linspace(10, 100, 10), 0.02 * numpy_generator(5, "bulk").standard_normal(390)], 0.02),
        # Multiple eigenvalues away from the median, as the outputs of a linear regression have them.
        (np.repeat(np.linspace(1, 5, 20), 10), 3.3),
        (np.repeat([-1.0, 1.0], 200), 0.0),
    ],
    ids=["narrow bulk", "multiple", "two"],
)
def test_what_is_taken_out_leaves_the_first_probe_a_fair_sample(spectrum: np.ndarray, threshold: float) -> None:
    operator = dense(torch.diag(torch.from_numpy(spectrum)))
    held = []
    for seed in range(40):
        mass = spectral_density(operator, probes=3, steps=40, seed=seed).mass_above(threshold)
        held.append(abs(mass.value - (spectrum > threshold).mean()) <= 1.96 * mass.stderr)
    assert np.mean(held) >= 0.9


def test_given_eigenpairs_become_point_masses() -> None:
    spectrum = np.r_[8.0, 6.0, np.linspace(-1, 1, 98)]
    operator = dense(with_spectrum(spectrum))
    density = spectral_density(operator, probes=2, steps=10, deflate=eigenpairs(operator, 2, tolerance=1e-10), lock=0)
    assert density.points == 2
    np.testing.assert_allclose(density.nodes[:, :2], [[8, 6]] * 2)
    np.testing.assert_allclose(density.weights[:, :2], 1 / 100)
    np.testing.assert_allclose(density.weights.sum(axis=1), 1)
    assert density.nodes[:, 2:].max() < 1.01


@pytest.mark.parametrize("spectrum", [np.zeros(5), np.ones(5), np.array([3.0]), np.array([1.0, 2.0])])
def test_tiny_and_degenerate_operators(spectrum: np.ndarray) -> None:
    density = spectral_density(dense(with_spectrum(spectrum)), probes=3, steps=20)
    # The Krylov space is the whole space: every probe finds each eigenvalue, once, with its multiplicity.
    values, counts = np.unique(spectrum, return_counts=True)
    order = np.argsort(density.nodes, axis=1)
    np.testing.assert_allclose(np.take_along_axis(density.nodes, order, 1), np.tile(values, (3, 1)), atol=1e-12)
    weights = np.tile(counts / len(spectrum), (3, 1))
    np.testing.assert_allclose(np.take_along_axis(density.weights, order, 1), weights, atol=1e-12)
    curve = density.on_grid()
    mass = curve.density * np.diff(curve.edges)
    assert mass.sum() == pytest.approx(1)
    assert (mass * (curve.edges[1:] + curve.edges[:-1]) / 2).sum() == pytest.approx(spectrum.mean(), abs=1e-6)


def test_same_seed_same_bits_and_bad_settings() -> None:
    operator = dense(with_spectrum(hessian_like(60)))
    first, second = (spectral_density(operator, probes=2, steps=8, seed=4) for _ in range(2))
    assert (first.nodes == second.nodes).all()
    with pytest.raises(LandscapeError, match="give at least 1"):
        spectral_density(operator, probes=0)
    with pytest.raises(LandscapeError, match="leaves the grid"):
        first.on_grid(np.linspace(0, 1, 10))
