"""The private copy that everything is measured on: its memory layout, and which hooks are part of it."""

import logging
import threading
from collections.abc import Callable

import pytest
import torch
from nets_for_tests import small_images, small_net
from torch import Tensor, nn
from torch.nn.utils import prune

import landscape
from landscape.compute.randomness import generator
from landscape.errors import LandscapeError
from landscape.look.forward import Passes
from landscape.objective import CurvatureOperator, Inference, Network, Objective
from landscape.predictions import Predictor
from landscape.store.protocol import Protocol


class LeNet(nn.Module):
    """As in most tutorials: `view`, which needs contiguous memory."""

    def __init__(self, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 8, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.fc1 = nn.Linear(8 * 2 * 2, 10)
        self.fc2 = nn.Linear(10, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = nn.functional.max_pool2d(torch.relu(self.norm(self.conv1(images))), 2)
        features = nn.functional.adaptive_max_pool2d(torch.relu(self.conv2(features)), 2)
        features = self.dropout(features.view(-1, 8 * 2 * 2))
        return self.fc2(torch.relu(self.fc1(features)))


class Reshaping(LeNet):
    def forward(self, images: Tensor) -> Tensor:
        features = nn.functional.max_pool2d(torch.relu(self.norm(self.conv1(images))), 2)
        features = nn.functional.adaptive_max_pool2d(torch.relu(self.conv2(features)), 2)
        return self.fc2(torch.relu(self.fc1(self.dropout(features.reshape(-1, 8 * 2 * 2)))))


def twins(**settings: float) -> tuple[LeNet, Reshaping]:
    torch.manual_seed(0)
    first, second = LeNet(**settings), Reshaping(**settings)
    second.load_state_dict(first.state_dict())
    return first.eval(), second.eval()


def test_a_network_with_view_is_measured_in_the_contiguous_layout(caplog: pytest.LogCaptureFixture) -> None:
    viewing, reshaping = twins()
    exact = Protocol(dtype="float64")
    with caplog.at_level(logging.INFO, "landscape"):
        measured = Objective(viewing, small_images(), protocol=exact)
    assert measured.network.layout is torch.contiguous_format
    assert "contiguous layout" in caplog.text
    other = Objective(reshaping, small_images(), protocol=exact)
    assert other.network.layout is torch.channels_last
    vector = torch.ones(measured.size, dtype=torch.float64)
    torch.testing.assert_close(CurvatureOperator(measured)(vector), CurvatureOperator(other)(vector))
    assert measured.value().loss == pytest.approx(other.value().loss, rel=1e-12)
    outputs = [Inference(one).outputs(0, 37) for one in (measured, other)]
    torch.testing.assert_close(*outputs)


def test_passes_and_predictions_take_networks_with_view() -> None:
    viewing, reshaping = twins(dropout=0.3)
    data, protocol = small_images(), Protocol(dropout="fresh", dtype="float64")
    found = []
    for net in (viewing, reshaping):
        predictor = Predictor(net, data, protocol=protocol)
        runs = Passes(net, data, protocol=protocol, blocks="conv*")
        assert predictor.network.layout is runs.network.layout
        assert (predictor.network.layout is torch.contiguous_format) == (net is viewing)
        predicted = predictor.passes(predictor.images(data, 0, 37), 0, range(3))
        found.append((predicted, runs.stochastic(runs.images(0, 37), 0, range(3))))
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second)


def test_surfaces_and_bfloat16_take_networks_with_view() -> None:
    viewing, _ = twins()
    objective = Objective(viewing, small_images())
    full, rough = (Inference(objective, precision=precision).outputs(0, 37) for precision in ("full", "bfloat16"))
    assert float((full - rough.float()).norm() / full.norm()) < 0.05


def test_what_fails_in_every_layout_blames_the_data() -> None:
    with pytest.raises(LandscapeError, match=r"cannot take images of shape \(2, 6, 6\).*--data"):
        Objective(nn.Sequential(nn.Conv2d(3, 4, 3), LeNet()), small_images())


class Counter:
    """A hook with something that cannot be copied."""

    def __init__(self) -> None:
        self.calls = 0
        self.file = (line for line in ())

    def __call__(self, *arguments: object) -> None:
        self.calls += 1


def test_the_users_hooks_do_not_fire_on_the_copy(caplog: pytest.LogCaptureFixture) -> None:
    net, counter = small_net(), Counter()
    for module in net.modules():
        module.register_forward_hook(counter)
        module.register_forward_pre_hook(counter, with_kwargs=True)
        module.register_full_backward_hook(counter)
        module.register_full_backward_pre_hook(counter)
    data = small_images()
    objective = Objective(net, data)
    objective.gradient()
    CurvatureOperator(objective)(objective.point)
    Passes(net, data).deterministic(data.batch(0, 4))
    Predictor(net, data)
    assert counter.calls == 0
    assert "hooks of the network are not measured" in caplog.text
    plain = Objective(small_net(), data)
    assert torch.equal(objective.gradient(), plain.gradient())
    net(data.batch(0, 2))
    assert counter.calls > 0, "the user's network keeps its hooks"


def test_parametrizations_norms_and_pruning_are_part_of_the_network() -> None:
    net = small_net()
    nn.utils.parametrizations.weight_norm(net[8])
    prune.l1_unstructured(net[4].conv, "weight", amount=0.5)
    net[0].register_forward_hook(Counter())
    net(small_images().batch(0, 2))  # leaves a weight with a graph behind
    data = small_images()
    objective = Objective(net, data, protocol=Protocol(dtype="float64"))
    with torch.no_grad():
        truth = nn.functional.cross_entropy(net.double()(data.images.double()), data.labels)
    assert objective.value().loss == pytest.approx(float(truth), rel=1e-12)
    assert "4.conv.weight_orig" in objective.names
    assert "8.parametrizations.weight.original0" in objective.names


class Doubling:
    part_of_network = True

    def __init__(self, scale: nn.Module) -> None:
        self.scale = scale

    def __call__(self, module: nn.Module, arguments: object, output: Tensor) -> Tensor:
        return self.scale(output)


def test_hooks_that_say_so_stay_and_hold_the_copys_layers() -> None:
    net = small_net()
    net.add_module("scale", nn.Linear(3, 3))
    chain = nn.Sequential(*list(net)[:-1])
    chain.scale = net.scale
    chain.register_forward_hook(Counter())
    chain.register_forward_hook(Doubling(chain.scale))
    network = Network(chain, small_images(), device=torch.device("cpu"), dtype=torch.float32)
    (hook,) = [hook for hook in network.module._forward_hooks.values() if isinstance(hook, Doubling)]
    assert len(network.module._forward_hooks) == 1
    assert hook.scale is network.module.scale
    assert hook.scale is not chain.scale
    images = small_images().batch(0, 3)
    torch.testing.assert_close(network(images), chain(images))


def test_a_smoothed_network_is_measured_smoothed_whatever_hooks_it_has() -> None:
    plain = small_net()
    smoothed = landscape.smooth(small_net())
    net = smoothed if isinstance(smoothed, nn.Module) else None
    if net is None:  # an older `smooth` works in place
        net = small_net()
        landscape.smooth(net)
    net.register_forward_hook(Counter())
    data = small_images()
    with torch.no_grad():
        truth = nn.functional.cross_entropy(net.double()(data.images.double()), data.labels)
    measured = Objective(net, data, protocol=Protocol(dtype="float64")).value().loss
    assert measured == pytest.approx(float(truth), rel=1e-12)
    assert measured != pytest.approx(Objective(plain, data).value().loss, rel=1e-3)


def test_a_network_that_cannot_be_copied_is_refused_in_one_line() -> None:
    net = small_net()
    net.lock = threading.Lock()
    with pytest.raises(LandscapeError, match="cannot be copied"):
        Objective(net, small_images())


class Volumes(nn.Module):
    """A convolution in three dimensions behind one in two, which would be laid out channels-last."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.deep, self.head = nn.Conv2d(2, 4, 3), nn.Conv3d(1, 2, 3), nn.Linear(2, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.relu(self.deep(self.flat(images)[:, None])).mean((2, 3, 4)))


def test_networks_with_convolutions_in_three_dimensions() -> None:
    net, images = Volumes(), small_images()
    measured = Objective(net, images)
    assert measured.network.layout is torch.contiguous_format
    with torch.no_grad():
        plain = nn.functional.cross_entropy(net(images.images), images.labels)
    assert measured.value().loss == pytest.approx(float(plain), rel=1e-6)
    assert bool(CurvatureOperator(measured)(measured.point).isfinite().all())


@pytest.mark.parametrize("wrapper", [torch.compile, nn.DataParallel])
def test_the_network_inside_a_wrapper_is_measured(wrapper: Callable[[nn.Module], nn.Module]) -> None:
    net = small_net()
    plain, wrapped = Objective(net, small_images()), Objective(wrapper(net), small_images())
    assert wrapped.names == plain.names
    assert torch.equal(CurvatureOperator(wrapped)(plain.point), CurvatureOperator(plain)(plain.point))


class Forces(nn.Module):
    """The slope of an energy, as interatomic potentials predict it: there must be gradients in the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, positions: Tensor) -> Tensor:
        positions.requires_grad_(True)
        (slope,) = torch.autograd.grad(self.energy(positions).sum(), positions, create_graph=True)
        return -slope


def test_networks_that_differentiate_in_their_inputs_are_measured() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Forces()
    positions, forces = torch.randn(2, 20, 6, generator=generator(0, "forces"))
    measured = Objective(net, (positions, forces), loss="mse", protocol=Protocol(dtype="float64"), micro_batch=7)
    expected = nn.functional.mse_loss(net.double()(positions.double()), forces.double())
    assert measured.value().loss == pytest.approx(float(expected.detach()), rel=1e-12)
    assert Inference(measured).losses([(0, 20)]).mean() == pytest.approx(float(expected.detach()), rel=1e-6)
    vector = torch.randn(measured.size, generator=generator(0), dtype=torch.float64)
    ahead, behind = (measured.gradient(measured.point + step * vector) for step in (1e-5, -1e-5))
    assert torch.allclose(CurvatureOperator(measured)(vector), (ahead - behind) / 2e-5, rtol=1e-5, atol=1e-8)
    with torch.no_grad():
        assert not measured.network(measured.batch(0, 3)).requires_grad
    assert not positions.requires_grad
    assert measured.left_out == {"energy.2.bias": "unused"}


def test_parts_that_are_compiled_are_measured_as_written() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body, head = nn.Sequential(nn.Flatten(), nn.Linear(72, 4), nn.Tanh()), nn.Linear(4, 3)
    plain = Objective(nn.Sequential(body, head), small_images())
    parted = Objective(nn.Sequential(torch.compile(body), head), small_images())
    assert parted.names[0] == "0._orig_mod.1.weight"
    assert torch.equal(CurvatureOperator(parted)(plain.point), CurvatureOperator(plain)(plain.point))
