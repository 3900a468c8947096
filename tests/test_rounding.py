"""The stated error of an eigenvalue holds the rounding of float32 products."""

import numpy as np
import pytest
import torch
from nets_for_tests import small_images, small_net
from torch import Tensor, nn

from landscape.compute.randomness import generator
from landscape.data import load
from landscape.eigen import eigenpairs
from landscape.hessian.over_masks import MeanOperator
from landscape.nets import build
from landscape.objective import CurvatureOperator, Objective
from landscape.objective.operators import Kind, relative_rounding
from landscape.store.protocol import Protocol


def trained(name: str, *, steps: int = 30, width: int = 4) -> nn.Module:
    """A network of the paper, small, after a few steps on digits: curvature as trained networks have it."""
    data = load("digits")
    torch.manual_seed(0)
    net = build(name, num_classes=10, width=width).train()
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    images = data.batch(0, 256)
    for step in range(steps):
        rows = torch.arange(64) + 64 * (step % 4)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images[rows]), data.labels[rows]).backward()
        optimizer.step()
    return net.eval()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("resnet_dnn_18", "hessian"), ("resnet_dnn_smoothing_18", "hessian"), ("resnet_dnn_18", "ggn")],
)
def test_errors_hold_against_float64(name: str, kind: Kind) -> None:
    objective = Objective(trained(name), load("digits"), protocol=Protocol(images=64), weight_decay=5e-4)
    pairs = eigenpairs(CurvatureOperator(objective, kind), 3, tolerance=1e-6, confidence=0)
    truth = eigenpairs(CurvatureOperator(objective.in_double(), kind), 3, tolerance=1e-10, confidence=0)
    off = np.abs(pairs.values - truth.values)
    assert (off <= pairs.errors).all(), (off, pairs.errors)
    assert (off <= pairs.residuals).all()
    # And not by stating anything at all.
    assert (pairs.errors < 1e-3 * pairs.values[0]).all()
    assert (truth.errors < 1e-9 * truth.values).all()


def test_rounding_is_measured_where_it_is_large() -> None:
    class Cancelling(nn.Module):
        """Adds and takes away a large number: float32 loses digits."""

        def __init__(self) -> None:
            super().__init__()
            self.net = small_net()

        def forward(self, images: Tensor) -> Tensor:
            return self.net((images + 1e6) - 1e6)

    objective = Objective(small_net(), small_images())
    assert relative_rounding(objective) == 128 * torch.finfo(torch.float32).eps
    lossy = Objective(Cancelling(), small_images())
    operator = CurvatureOperator(lossy)
    vector = torch.randn(lossy.size, generator=generator(0))
    exact = CurvatureOperator(lossy.in_double())(vector.double())
    true = float((operator(vector).double() - exact).norm() / exact.norm())
    assert operator.relative_rounding > 128 * torch.finfo(torch.float32).eps
    assert 0.1 * true < operator.relative_rounding < 10 * true
    assert MeanOperator([operator]).relative_rounding == operator.relative_rounding


@pytest.mark.parametrize("batch_norm", ["running", "batch", "recalibrated"])
def test_in_double_is_the_float64_objective(batch_norm: str) -> None:
    protocol = Protocol(batch_norm=batch_norm)
    double = Objective(small_net(), small_images(), protocol=protocol, weight_decay=0.1).in_double()
    truth = Objective(small_net(), small_images(), protocol=protocol.replace(dtype="float64"), weight_decay=0.1)
    # Float32 weights and statistics are the same numbers in float64; recalibrated ones are measured in float32.
    close = 1e-6 if batch_norm == "recalibrated" else 1e-12
    assert double.value().loss == pytest.approx(truth.value().loss, rel=close)
    torch.testing.assert_close(double.gradient(), truth.gradient(), rtol=close, atol=close)
    away = double.point * 1.1
    assert double.value(away).loss == pytest.approx(truth.value(away).loss, rel=1e-12)
