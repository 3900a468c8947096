import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from eigen_problems import digits_hessian, hessian_like, with_spectrum

from landscape.compute.randomness import numpy_generator
from landscape.eigen import Eigenpairs, dense, eigenpairs
from landscape.eigen.operator import Dense
from landscape.eigen.pairs import Which
from landscape.eigen.search_space import Ritz, SearchSpace
from landscape.errors import LandscapeError


def random_problem(index: int) -> tuple[torch.Tensor, int, str]:
    random = numpy_generator(index, "lanczos problem")
    size = int(random.integers(1, 60))
    values = random.standard_normal(size)
    match index % 5:
        case 1:
            values = np.round(values)  # multiplicities
        case 2:
            values = -np.abs(values) - 0.5
        case 3:
            values = np.repeat(values[: (size + 2) // 3], 3)[:size] + 1e-7 * random.standard_normal(size)
        case 4:
            values = 3 * values * np.exp(-0.3 * np.arange(size))
    dtype = torch.float32 if (index // 5) % 2 else torch.float64
    return with_spectrum(values, index, dtype), int(random.integers(1, 7)), str(random.choice(["LA", "SA", "LM", "BE"]))


def test_residual_bounds_hold_in_every_one_of_200_problems() -> None:
    for index in range(200):
        matrix, count, which = random_problem(index)
        exact = np.linalg.eigvalsh(matrix.double().numpy())
        pairs = eigenpairs(dense(matrix), count, which=which, seed=index, basis_limit=(None, count + 8)[index % 2])
        distance = np.abs(exact[:, None] - pairs.values).min(axis=0)
        assert (distance <= pairs.residuals).all(), (index, distance, pairs.residuals)
        product = matrix.double() @ pairs.vectors.double()
        true = torch.linalg.vector_norm(product - pairs.vectors.double() * torch.from_numpy(pairs.values), dim=0)
        assert (true.numpy() <= pairs.residuals * (1 + 1e-9)).all(), index
        assert len(pairs.values) == min(count, len(exact))


@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE"])
@pytest.mark.parametrize(
    "spectrum",
    [
        np.r_[[5, 5, 5, 4, 4], np.linspace(-1, 1, 80)],
        np.r_[[-3, -3, -3, -2, -2], np.linspace(-1, 0, 45)],
        np.zeros(12),
        np.ones(12),
        np.array([1.0, 1.0, 2.0, 2.0]),
        np.array([-2.0]),
    ],
)
def test_every_copy_of_a_multiple_eigenvalue_is_found(spectrum: np.ndarray, which: str) -> None:
    pairs = eigenpairs(dense(with_spectrum(spectrum)), 6, which=which, tolerance=1e-6, confidence=0.999)
    count = min(6, len(spectrum))
    ascending = np.sort(spectrum)
    expected = {
        "LA": ascending[::-1][:count],
        "SA": ascending[:count],
        "LM": spectrum[np.argsort(-np.abs(spectrum), kind="stable")][:count],
        "BE": np.r_[ascending[::-1][: count - count // 2], ascending[: count // 2][::-1]],
    }[which]
    found = np.abs(pairs.values) if which == "LM" else pairs.values
    np.testing.assert_allclose(found, np.abs(expected) if which == "LM" else expected, atol=1e-5)
    assert pairs.converged.all()


def test_a_near_copy_is_found_where_the_rest_is_zero() -> None:
    # It hides in the direction that is multiplied next; outside of that there is nothing, so that a check ends at once.
    spectrum = np.r_[7.4, 1.5555, 1.5511, -20.4, -7.7, -3.7, -2.0, np.zeros(24)]
    operator = dense(torch.diag(torch.from_numpy(spectrum).float()))
    for seed in range(20):
        pairs = eigenpairs(operator, 3, seed=seed)
        assert pairs.values == pytest.approx(spectrum[:3], rel=1e-4)


def test_without_the_check_copies_are_missed() -> None:
    spectrum = np.r_[[5, 5, 5, 4, 3, 3], np.linspace(-1, 1, 80)]
    blind = eigenpairs(dense(with_spectrum(spectrum)), 3, confidence=0)
    np.testing.assert_allclose(blind.values, [5, 4, 3], rtol=1e-3)
    assert blind.missed_probability == 1
    seeing = eigenpairs(dense(with_spectrum(spectrum)), 3)
    np.testing.assert_allclose(seeing.values, [5, 5, 5], rtol=1e-3)
    assert seeing.missed_probability < 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_five_eigenvalues_of_a_hessian_to_1e_4_in_few_products(dtype: torch.dtype) -> None:
    hessian = digits_hessian()
    exact = np.linalg.eigvalsh(hessian.numpy())[::-1][:5]
    pairs = eigenpairs(dense(hessian.to(dtype)), 5)
    assert pairs.converged.all()
    np.testing.assert_allclose(pairs.values, exact, rtol=1e-4)
    assert pairs.products <= 25
    gram = pairs.vectors.double().T @ pairs.vectors.double()
    np.testing.assert_allclose(gram.numpy(), np.eye(5), atol=1e-5)


def test_warm_start_saves_products_and_not_the_answer() -> None:
    hessian = digits_hessian()
    cold = eigenpairs(dense(hessian), 5, confidence=0)
    moved = hessian + 1e-4 * with_spectrum(numpy_generator(1, "move").standard_normal(len(hessian)), 1)
    warm = eigenpairs(dense(moved), 5, start=cold.vectors.sum(dim=1), confidence=0)
    block = eigenpairs(dense(moved), 5, start=cold.vectors, confidence=0)
    exact = np.linalg.eigvalsh(moved.numpy())[::-1][:5]
    np.testing.assert_allclose(warm.values, exact, rtol=1e-4)
    np.testing.assert_allclose(block.values, exact, rtol=1e-4)
    assert warm.products < cold.products


def test_thick_restart_keeps_memory_and_converges() -> None:
    spectrum = np.linspace(0, 1, 300) ** 3
    rows: list[int] = []
    pairs = eigenpairs(dense(with_spectrum(spectrum)), 3, basis_limit=18, tolerance=1e-6, confidence=0,
                       callback=lambda products, values, residuals, left: rows.append(products))  # fmt: skip
    assert pairs.products > 18
    assert rows == list(range(1, pairs.products + 1))
    np.testing.assert_allclose(pairs.values, spectrum[::-1][:3], rtol=1e-6)


@pytest.mark.parametrize("which", ["LA", "LM", "SA"])
@pytest.mark.parametrize("basis_limit", [None, 24])
def test_the_smallest_eigenvalue_comes_from_the_same_products(which: Which, basis_limit: int | None) -> None:
    operator = dense(digits_hessian())
    truth = torch.linalg.eigvalsh(digits_hessian())
    alone = eigenpairs(operator, 5, which=which, basis_limit=basis_limit)
    both = eigenpairs(operator, 5, which=which, basis_limit=basis_limit, smallest=1e-3)
    np.testing.assert_allclose(both.values, alone.values, rtol=1e-4)
    assert both.smallest == pytest.approx(float(truth[0]), rel=1e-3)
    assert abs(both.smallest - float(truth[0])) <= both.smallest_residual
    apart = eigenpairs(operator, 1, which="SA", tolerance=1e-3, basis_limit=basis_limit)
    if which == "SA":
        assert both.products == alone.products
    else:
        assert both.products < apart.products + alone.products


@pytest.mark.parametrize(("problem", "which"), [("digits", "LA"), ("digits", "SA"), ("slow", "LA")])
def test_foretold_products_are_about_those_that_follow(problem: str, which: Which) -> None:
    matrix = digits_hessian() if problem == "digits" else with_spectrum(np.linspace(0, 1, 300) ** 3)
    foretold: list[int | None] = []
    pairs = eigenpairs(
        dense(matrix), 3, which=which, callback=lambda products, values, residuals, left: foretold.append(left)
    )
    said = [(pairs.products - done, left) for done, left in enumerate(foretold, 1) if left is not None]
    assert len(said) >= 5
    for left, expected in said:
        assert left / 3 - 6 <= expected <= 3 * left + 6


def test_deflated_pairs_are_not_found_again() -> None:
    spectrum = np.r_[[9.0, 7.0, 5.0, 4.0], np.linspace(-1, 1, 60)]
    operator = dense(with_spectrum(spectrum))
    first = eigenpairs(operator, 2, tolerance=1e-8)
    second = eigenpairs(operator, 2, deflate=first, tolerance=1e-6)
    np.testing.assert_allclose(second.values, [5, 4], atol=1e-4)


def test_an_unsymmetric_operator_shows_in_the_residuals() -> None:
    matrix = with_spectrum(np.r_[[5.0, 4.0], np.linspace(-1, 1, 40)])
    noisy = dense(matrix)
    noisy.matrix = matrix + 0.1 * torch.from_numpy(numpy_generator(0, "noise").standard_normal(matrix.shape))
    assert eigenpairs(noisy, 2, max_products=42).residuals.max() > 0.05


def test_too_few_products_are_reported_as_not_converged() -> None:
    pairs = eigenpairs(dense(digits_hessian()), 5, max_products=7)
    assert pairs.products == 7
    assert not pairs.converged.all()


def test_same_seed_same_bits() -> None:
    def run(seed: int) -> Eigenpairs:
        return eigenpairs(dense(digits_hessian()), 3, seed=seed)

    assert (run(3).values == run(3).values).all()
    assert torch.equal(run(3).vectors, run(3).vectors)
    assert not torch.equal(run(3).vectors, run(4).vectors)


def test_a_product_that_is_not_finite_is_named() -> None:
    operator = dense(with_spectrum(np.arange(20.0)))

    class Breaking:
        size, dtype, device = operator.size, operator.dtype, operator.device
        calls = 0

        def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return operator(vectors) if self.calls < 4 else operator(vectors) * float("nan")

    with pytest.raises(LandscapeError, match="product 4 with the operator is not finite"):
        eigenpairs(Breaking(), 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count is 0"),
        ({"which": "XX"}, "choose LA, SA, LM or BE"),
        ({"basis_limit": 5}, "basis_limit 5 is too small"),
        ({"start": torch.zeros(20, dtype=torch.float64)}, "start is zero"),
        ({"start": torch.ones(19)}, "start has 19 entries"),
        ({"max_products": 0}, "max_products is 0"),
    ],
)
def test_impossible_settings_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(LandscapeError, match=message):
        eigenpairs(dense(with_spectrum(np.arange(20.0))), **arguments)


def test_dense_refuses_what_is_not_symmetric() -> None:
    with pytest.raises(LandscapeError, match="not symmetric"):
        dense(torch.triu(torch.ones(3, 3)))


def test_a_single_ritz_value_is_not_taken_for_an_eigenvalue() -> None:
    # After one product there is nothing to judge the gap by, whatever the search for copies is told.
    matrix = with_spectrum(np.linspace(-1, 10, 40), 0, torch.float64)
    found = eigenpairs(dense(matrix), 1, tolerance=0.02, confidence=0)
    assert found.values[0] == pytest.approx(10, rel=0.02)
    assert found.products > 1


@pytest.mark.parametrize("scale", [1e-30, 1e20, 1e30])
def test_float32_eigenvalues_of_any_scale(scale: float) -> None:
    matrix = with_spectrum(hessian_like(100))
    plain = eigenpairs(dense(matrix.float()), 3)
    scaled = eigenpairs(dense((matrix * scale).float()), 3)
    assert np.isfinite(scaled.residuals).all()
    assert scaled.converged.all()
    np.testing.assert_allclose(scaled.values / scale, plain.values, rtol=1e-4)


def test_infinite_residuals_are_never_converged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landscape.eigen.search_space.SearchSpace.ritz", infinite(SearchSpace.ritz))
    pairs = eigenpairs(dense(with_spectrum(hessian_like(50))), 2, max_products=20)
    assert np.isinf(pairs.residuals).all()
    assert not pairs.converged.any()


def infinite(ritz: Callable[[SearchSpace], Ritz]) -> Callable[[SearchSpace], Ritz]:
    """Residuals, errors and rounding as they were after an overflow."""

    def overflowed(space: SearchSpace) -> Ritz:
        found = ritz(space)
        beyond = np.full_like(found.values, np.inf)
        return dataclasses.replace(found, residuals=beyond, errors=beyond, rounding=np.inf)

    return overflowed


class Blocks(Dense):
    """A matrix that likes eight vectors at once; counts its calls."""

    def __init__(self, matrix: torch.Tensor) -> None:
        super().__init__(matrix)
        self.widths: list[int] = []

    def together(self, rows: int = 0) -> int:
        return 8

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        self.widths.append(1 if vectors.ndim == 1 else vectors.shape[1])
        return super().__call__(vectors)


def neighbour(matrix: torch.Tensor, off: float) -> Eigenpairs:
    """Six pairs of a matrix whose entries are off, in the matrix's own eigenvectors, as those of a sample are."""
    values, vectors = torch.linalg.eigh(matrix.double())
    noise = torch.from_numpy(numpy_generator(0, "neighbour").standard_normal(matrix.shape))
    scale = values.abs().sqrt()
    other = vectors @ (torch.diag(values) + off * scale[:, None] * (noise + noise.T) / 2**0.5 * scale) @ vectors.T
    return eigenpairs(dense(((other + other.T) / 2).to(matrix)), 6, tolerance=1e-3, keep_space=True, confidence=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_neighbour_saves_rounds_and_not_the_bounds(dtype: torch.dtype) -> None:
    matrix = with_spectrum(hessian_like(400), dtype=dtype)
    exact = np.sort(hessian_like(400))[::-1]
    alone = eigenpairs(dense(matrix), 5)
    for off, calls in ((0.0, 5), (0.02, 7), (0.1, 9), (1.0, None)):
        operator = Blocks(matrix)
        pairs = eigenpairs(operator, 5, near=neighbour(matrix, off))
        assert calls is None or len(operator.widths) <= calls < alone.products / 1.5
        assert pairs.products == sum(operator.widths)
        assert pairs.converged.all()
        assert pairs.missed_probability <= 0.05
        assert (np.abs(pairs.values - exact[:5]) <= np.minimum(pairs.residuals, 1e-4 * exact[:5] + 1e-4)).all()
        # The residuals stated are those of the matrix itself, not of the neighbour.
        vectors = pairs.vectors.double()
        true = (matrix.double() @ vectors - vectors * torch.from_numpy(pairs.values)).norm(dim=0).numpy()
        assert (true <= pairs.residuals * (1 + 1e-9)).all()


def test_a_copy_that_the_neighbour_has_not_is_found() -> None:
    matrix = with_spectrum(np.r_[[9, 9, 7, 6, 5, 4], np.linspace(-1, 1, 90)])
    hidden = torch.linalg.eigh(matrix)[1][:, -1]
    without = dense(matrix - 9 * torch.outer(hidden, hidden))
    near = eigenpairs(without, 6, tolerance=1e-3, keep_space=True, confidence=0)
    assert eigenpairs(dense(matrix), 5, near=near, confidence=0.99).values == pytest.approx([9, 9, 7, 6, 5], rel=1e-4)


def test_a_neighbour_that_is_none_is_refused() -> None:
    matrix = with_spectrum(hessian_like(100))
    with pytest.raises(LandscapeError, match="no search space"):
        eigenpairs(dense(matrix), 5, near=eigenpairs(dense(matrix), 5))
    with pytest.raises(LandscapeError, match="100 dimensions, the operator 90"):
        eigenpairs(dense(with_spectrum(hessian_like(90))), 5, near=eigenpairs(dense(matrix), 5, keep_space=True))
    with pytest.raises(LandscapeError, match="near is for the solver lanczos alone"):
        eigenpairs(dense(matrix), 5, solver="scipy", near=eigenpairs(dense(matrix), 5, keep_space=True))
