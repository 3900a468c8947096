"""Operations that torch cannot differentiate twice, or not rightly."""

from contextlib import nullcontext

import pytest
import torch
from nets_for_tests import small_images
from torch import Tensor, nn

from landscape import CurvatureOperator, Objective, Protocol
from landscape.compute.randomness import generator
from landscape.objective.second_derivatives import SecondDerivatives
from landscape.selfcheck.curvature import plain_checks


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(0, "second derivatives"), dtype=torch.float64)


class Distances(nn.Module):
    """Distances to prototypes."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.linear, self.p = nn.Linear(72, 4), p
        self.prototypes = nn.Parameter(draw(3, 4))

    def forward(self, images: Tensor) -> Tensor:
        features = self.linear(images.flatten(1))
        return torch.cdist(features, self.prototypes, p=self.p)


class Bags(nn.Module):
    """Bags of embeddings, of words that the signs of pixels say; word 0 may be padding."""

    def __init__(self, mode: str, padding: int | None = None, weighted: bool = False) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(8, 3, mode=mode, padding_idx=padding)
        self.weighted, self.scale = weighted, nn.Parameter(torch.ones(3))

    def forward(self, images: Tensor) -> Tensor:
        signs = (images.flatten(1)[:, :12] > 0).long().unflatten(1, (4, 3))
        words = signs @ torch.tensor([1, 2, 4])
        found = self.bag(words, per_sample_weights=images.flatten(1)[:, :4] if self.weighted else None)
        return torch.tanh(found) * self.scale


REWRITTEN = {
    # The framework's own, on a CPU, is not symmetric (torch 2.13).
    "weight normalisation": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 3, 3, padding=1)), nn.Tanh(), nn.Flatten(), nn.Linear(108, 3)
    ),
    # There is none in the framework.
    "hard sigmoid": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.Hardsigmoid(), nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ),
    "distances": lambda: Distances(2.0),
    "city-block distances": lambda: Distances(1.0),
    "mean of a bag": lambda: Bags("mean"),
    "padded bag": lambda: Bags("mean", padding=0),
    "sum of a bag": lambda: Bags("sum", padding=0),
    "weighted bag": lambda: Bags("sum", weighted=True),
}


@pytest.mark.parametrize("name", REWRITTEN)
def test_operations_without_a_right_second_derivative_are_written_with_others(name: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = REWRITTEN[name]()
    measured = Objective(net, small_images(), protocol=Protocol(dtype="float64"))
    vector = draw(measured.size)
    # Differences of the framework's first derivative are the oracle.
    ahead, behind = (measured.gradient(measured.point + step * vector) for step in (1e-6, -1e-6))
    truth = (ahead - behind) / 2e-6
    assert float((CurvatureOperator(measured)(vector) - truth).norm()) < 1e-7 * float(truth.norm())
    value, gradient = measured.value().loss, measured.gradient()
    with SecondDerivatives():
        assert measured.value().loss == pytest.approx(value, rel=1e-12)
        # The framework's hard sigmoid has a slope of a sixth in single precision.
        assert torch.allclose(measured.gradient(), gradient, rtol=1e-7, atol=1e-9)


def test_distances_of_points_that_coincide_have_the_derivatives_of_the_framework() -> None:
    points = draw(3, 4).requires_grad_()
    gradients = []
    for mode in (nullcontext(), SecondDerivatives()):
        with mode:
            gradients += torch.autograd.grad(torch.cdist(points, points.detach()).sum(), points)
    assert torch.allclose(*gradients)


def test_sparse_gradients_are_made_dense() -> None:
    objectives = []
    for sparse in (False, True):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = nn.Sequential(nn.Embedding(9, 4, sparse=sparse), nn.Flatten(), nn.Tanh(), nn.Linear(16, 3))
        words = torch.randint(9, (20, 4), generator=generator(0, "words"))
        objectives.append(Objective(net, (words, torch.arange(20) % 3), protocol=Protocol(dtype="float64")))
    dense, sparse_ones = objectives
    vector = draw(dense.size)
    assert torch.equal(dense.gradient(), sparse_ones.gradient())
    assert all(check.passed for check in plain_checks(net, sparse_ones))
    assert torch.equal(CurvatureOperator(dense)(vector), CurvatureOperator(sparse_ones)(vector))


def test_gauss_newton_of_what_torch_differentiates_by_logarithms() -> None:
    class Scan(nn.Module):
        """As recurrent networks that are computed in parallel do it."""

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(72, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.linear(images.flatten(1)).logcumsumexp(1)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Scan().double()
    images = small_images(count=5)
    measured = Objective(net, images, protocol=Protocol(dtype="float64"), micro_batch=3)
    vector = draw(measured.size)
    parameters = dict(net.named_parameters())

    def outputs(*values: Tensor) -> Tensor:
        return torch.func.functional_call(net, dict(zip(parameters, values, strict=True)), (images.images.double(),))

    parts = torch.autograd.functional.jacobian(outputs, tuple(parameters.values()))
    jacobian = torch.cat([part.flatten(2) for part in parts], dim=2)
    shares = outputs(*parameters.values()).detach().softmax(1)
    along = jacobian @ vector
    curved = shares * (along - (shares * along).sum(1, keepdim=True))
    truth = torch.einsum("nkp,nk->p", jacobian, curved) / len(images)
    assert torch.allclose(CurvatureOperator(measured, "ggn")(vector), truth, rtol=1e-10, atol=1e-12)
