"""Average pooling past a kernel of CUDA's whose gradient is wrong: here, a CPU that has the same fault."""

import itertools
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from nets_for_tests import small_images
from torch import Tensor, nn
from torch.nn import functional

from landscape import nets
from landscape.compute import pooling
from landscape.compute.masks import Masks
from landscape.objective import Objective


class _Shifted(torch.autograd.Function):
    """A gradient that is a row and a column off."""

    @staticmethod
    def forward(context: Any, features: Tensor) -> Tensor:
        return features.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient.roll((1, 1), (2, 3))


def faulty(input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, *others: Any) -> Tensor:
    last = input.is_contiguous(memory_format=torch.channels_last) and not input.is_contiguous()
    pads = padding if isinstance(padding, int) else max(padding)
    return functional.avg_pool2d(
        _Shifted.apply(input) if last and pads else input, kernel_size, stride, padding, *others
    )


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Torch's kernel as `pooling` finds it on such a device."""
    kernel = Mock(side_effect=faulty)
    monkeypatch.setattr(pooling, "_affected", lambda input: True)
    monkeypatch.setattr(pooling, "functional", SimpleNamespace(pad=functional.pad, avg_pool2d=kernel))
    return kernel


def features() -> Tensor:
    drawn = torch.randn(2, 3, 6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return drawn.contiguous(memory_format=torch.channels_last).requires_grad_()


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(
    ("stride", "padding", "ceil", "counted", "divisor"),
    [*itertools.product((1, 2), (0, 1, (1, 0), (0, 1)), (False, True), (False, True), (None,)), (1, 1, False, True, 3)],
)
def test_values_and_gradients_are_those_of_a_sound_kernel(
    stride: int, padding: Any, ceil: bool, counted: bool, divisor: int | None
) -> None:
    here, there = features(), features()
    out = pooling.avg_pool2d(here, 3, stride, padding, ceil, counted, divisor)
    expected = functional.avg_pool2d(there.contiguous(), 3, stride, padding, ceil, counted, divisor)
    torch.testing.assert_close(out, expected)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for result in (out, expected):
        (result * weights).sum().backward()
    torch.testing.assert_close(here.grad, there.grad)


def test_the_fault_would_be_seen() -> None:
    here, there = features(), features()
    faulty(here, 3, 1, 1).square().sum().backward()
    functional.avg_pool2d(there, 3, 1, 1).square().sum().backward()
    assert not torch.allclose(here.grad, there.grad)


def gradient(net: nn.Module) -> Tensor:
    return Objective(net, small_images()).gradient()


@pytest.mark.parametrize("own", [False, True])
def test_a_strangers_pooling_and_the_papers_blur_are_measured_right(own: bool, request: pytest.FixtureRequest) -> None:
    """A network whose class knows nothing of us, and one with our layer."""
    torch.manual_seed(0)
    pool = nets.smoothing.Blur() if own else nn.AvgPool2d(3, 1, 1)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), pool, nn.Conv2d(4, 3, 3), nn.Flatten(), nn.LazyLinear(3)
    )
    data = small_images()
    net(data.batch(0, 2))
    wanted = gradient(net.eval())
    kernel: Mock = request.getfixturevalue("kernel")
    torch.testing.assert_close(gradient(net), wanted)
    assert kernel.called


def test_training_passes_through_it(kernel: Mock) -> None:
    layer, here, there = nn.AvgPool2d(3, 1, 1), features(), features()
    with Masks.stream(torch.Generator().manual_seed(0)):
        layer(here).square().sum().backward()
    functional.avg_pool2d(there, 3, 1, 1).square().sum().backward()
    torch.testing.assert_close(here.grad, there.grad)
    assert kernel.called
