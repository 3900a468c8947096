"""Other people's solvers and operators: through the same call, judged alike."""

import warnings

import numpy as np
import pytest
import scipy.sparse
import torch
from eigen_problems import digits_hessian, hessian_like, with_spectrum
from nets_for_tests import Dense, small_images, small_net
from scipy.sparse.linalg import LinearOperator, aslinearoperator, eigsh
from torch import Tensor, nn

from landscape.compute.randomness import generator
from landscape.eigen import SymmetricOperator, as_operator, dense, eigenpairs, spectral_density, trace
from landscape.eigen.operator import Operator, Products
from landscape.errors import LandscapeError
from landscape.hessian.over_masks import MeanOperator
from landscape.objective import CurvatureOperator, Objective
from landscape.store.protocol import Protocol

SPECTRUM = np.sort(hessian_like(120))[::-1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE"])
def test_scipy_finds_what_we_find(which: str, dtype: torch.dtype) -> None:
    operator = dense(with_spectrum(SPECTRUM, dtype=dtype))
    ours, theirs = (eigenpairs(operator, 4, which=which, solver=solver) for solver in ("lanczos", "scipy"))
    np.testing.assert_allclose(theirs.values, ours.values, rtol=2e-4, atol=1e-4)
    assert theirs.converged.all()
    assert (np.abs(SPECTRUM[:, None] - theirs.values).min(axis=0) <= theirs.residuals).all()
    assert theirs.vectors.dtype == dtype
    assert 4 < theirs.products <= 300 + 4
    assert theirs.missed_probability == 1


def test_pyhessian_finds_the_largest_in_magnitude() -> None:
    pytest.importorskip("pyhessian")
    operator = dense(with_spectrum(SPECTRUM))
    state = torch.get_rng_state()
    found = eigenpairs(operator, 2, which="LM", solver="pyhessian", tolerance=1e-6)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_allclose(found.values, [30, 22], rtol=1e-3)
    off = np.abs(SPECTRUM[:, None] - found.values).min(axis=0)
    assert (off <= found.residuals).all()
    again = eigenpairs(operator, 2, which="LM", solver="pyhessian", tolerance=1e-6)
    assert np.array_equal(found.values, again.values)
    with pytest.raises(LandscapeError, match='which="LM"'):
        eigenpairs(operator, 2, solver="pyhessian")


def test_a_solver_of_ones_own_is_judged_and_not_believed() -> None:
    matrix = with_spectrum(SPECTRUM)

    def mistaken(
        operator: Operator, count: int, which: str, tolerance: float, seed: int, products: Products
    ) -> tuple[np.ndarray, Tensor]:
        values, vectors = torch.linalg.eigh(matrix)
        products(vectors[:, 0])
        return values[-count:].numpy() * np.array([1.0] * (count - 1) + [1.01]), vectors[:, -count:] * 7

    found = eigenpairs(dense(matrix), 3, solver=mistaken)
    assert found.products == 4
    assert found.converged.tolist() == [False, True, True]
    assert found.residuals[0] == pytest.approx(0.01 * SPECTRUM[0], rel=1e-6)
    np.testing.assert_allclose(found.vectors.norm(dim=0).numpy(), 1)


def test_errors_of_other_solvers_hold_for_values_of_neighbours_mixed() -> None:
    spectrum = np.r_[10.0, 5.0, 4.98, np.linspace(0, 1, 20)]
    operator = dense(torch.diag(torch.from_numpy(spectrum)))

    def mixing(
        operator: Operator, count: int, which: str, tolerance: float, seed: int, products: Products
    ) -> tuple[np.ndarray, Tensor]:
        vectors = torch.eye(operator.size, count, dtype=operator.dtype)
        vectors[1:3, 1] = 1
        return np.array([10, 4.99]), vectors

    found = eigenpairs(operator, 2, solver=mixing)
    off = np.abs(spectrum[:, None] - found.values).min(axis=0)
    assert (off <= found.errors).all()
    assert found.converged.tolist() == [True, False]


def test_what_other_solvers_cannot_do_is_refused() -> None:
    operator = dense(with_spectrum(SPECTRUM))
    with pytest.raises(LandscapeError, match="keep_space is for the solver lanczos alone"):
        eigenpairs(operator, 2, solver="scipy", keep_space=True)
    with pytest.raises(LandscapeError, match="unknown solver 'magic'; choose one of lanczos, scipy, pyhessian"):
        eigenpairs(operator, 2, solver="magic")
    with pytest.raises(LandscapeError, match="not finished in 5 products"):
        eigenpairs(operator, 2, solver="scipy", max_products=5)
    with pytest.raises(LandscapeError, match="fewer than all 120"):
        eigenpairs(operator, 120, solver="scipy")


def test_operators_multiply_and_scipy_sees_them() -> None:
    matrix = with_spectrum(SPECTRUM)
    operator = dense(matrix)
    vectors = torch.randn(120, 2, generator=generator(0), dtype=torch.float64)
    assert torch.equal(operator @ vectors, matrix @ vectors)
    linear = operator.as_linear_operator()
    assert linear.shape == operator.shape == (120, 120)
    assert linear.dtype == np.float64
    np.testing.assert_allclose(linear @ vectors.numpy(), (matrix @ vectors).numpy())
    np.testing.assert_allclose(linear @ vectors[:, 0].numpy(), (matrix @ vectors[:, 0]).numpy())
    np.testing.assert_allclose(linear.T @ vectors[:, 0].numpy(), (matrix @ vectors[:, 0]).numpy())
    assert eigsh(linear, 1, which="LA")[0][0] == pytest.approx(30)


def test_curvature_as_scipy_sees_it() -> None:
    objective = Objective(small_net(), small_images(), protocol=Protocol(dtype="float64"))
    operator = CurvatureOperator(objective)
    vector = torch.randn(objective.size, generator=generator(0), dtype=torch.float64)
    hessian = Dense(small_net(), small_images()).hessian
    for one in (operator, MeanOperator([operator, operator])):
        assert isinstance(one, SymmetricOperator)
        torch.testing.assert_close(one @ vector, hessian @ vector)
        np.testing.assert_allclose(one.as_linear_operator() @ vector.numpy(), (hessian @ vector).numpy(), atol=1e-12)


def test_other_peoples_operators() -> None:
    matrix = with_spectrum(SPECTRUM)
    array = matrix.numpy()
    operators = {
        "tensor": as_operator(matrix),
        "array": as_operator(array),
        "sparse": as_operator(scipy.sparse.csr_array(array)),
        "linear operator": as_operator(aslinearoperator(array)),
        "vector function": as_operator(LinearOperator((120, 120), matvec=lambda v: array @ v, dtype=np.float64)),
        "function": as_operator(lambda vector: matrix @ vector, size=120, dtype=torch.float64),
        "ours": as_operator(dense(matrix)),
    }
    vectors = torch.randn(120, 2, generator=generator(0), dtype=torch.float64)
    for name, operator in operators.items():
        torch.testing.assert_close(operator(vectors), matrix @ vectors, msg=name)
        torch.testing.assert_close(operator(vectors[:, 0]), matrix @ vectors[:, 0], msg=name)
        assert eigenpairs(operator, 1).values[0] == pytest.approx(30, rel=1e-4), name
    # Without saying so, too.
    assert eigenpairs(scipy.sparse.csr_array(array), 1).values[0] == pytest.approx(30, rel=1e-4)
    assert trace(array, products=120).value == pytest.approx(SPECTRUM.sum())
    assert spectral_density(matrix, probes=1, steps=10).products == 10


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (np.zeros((2, 3)), "square"),
        (scipy.sparse.csr_array((2, 3)), "square"),
        (lambda vector: vector, "give size="),
        ("matrix", "a str does not multiply vectors"),
    ],
)
def test_what_is_no_operator_is_refused(thing: object, message: str) -> None:
    with pytest.raises(LandscapeError, match=message):
        as_operator(thing)


def linear_net() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(72, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator(0, "linear"), dtype=torch.float64) / 4)
    return net


def test_curvlinops_operators_are_measured_like_ours() -> None:
    curvlinops = pytest.importorskip("curvlinops")
    net, data = linear_net(), small_images()
    batches = [(data.images.double(), data.labels)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = curvlinops.HessianLinearOperator(
            net, nn.CrossEntropyLoss(), list(net.parameters()), batches, check_deterministic=False
        )
        found = eigenpairs(theirs, 3)
    ours = eigenpairs(CurvatureOperator(Objective(net, data, protocol=Protocol(dtype="float64"))), 3)
    np.testing.assert_allclose(found.values, ours.values, rtol=1e-3)


def test_pyhessian_objects_are_measured_like_ours() -> None:
    pyhessian = pytest.importorskip("pyhessian")
    net, data = linear_net(), small_images()
    batch = (data.images.double(), data.labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = pyhessian.hessian(net, nn.CrossEntropyLoss(), data=batch, cuda=False)
        found = eigenpairs(whole, 2)
        net.zero_grad(set_to_none=True)
    ours = eigenpairs(CurvatureOperator(Objective(linear_net(), data, protocol=Protocol(dtype="float64"))), 2)
    np.testing.assert_allclose(found.values, ours.values, rtol=1e-3)


def test_solvers_agree_on_a_trained_network() -> None:
    matrix = digits_hessian()
    exact = np.linalg.eigvalsh(matrix.numpy())[::-1][:3]
    for solver in ("lanczos", "scipy"):
        found = eigenpairs(dense(matrix), 3, solver=solver, tolerance=1e-5)
        np.testing.assert_allclose(found.values, exact, rtol=1e-5)
