"""The spectrum instrument against the dense float64 Hessian and against two other libraries."""

import dataclasses
import gc
import itertools
import weakref
from typing import ClassVar

import numpy as np
import pytest
import torch
from nets_for_tests import Dense, small_images, small_net
from torch import nn

from landscape import nets
from landscape.compute.masks import Masks
from landscape.compute.randomness import generator
from landscape.data import Images
from landscape.eigen import Eigenpairs, eigenpairs
from landscape.hessian import image_group_spectrum, of_sample, spectrum
from landscape.objective import CurvatureOperator, Objective
from landscape.objective.operators import Kind
from landscape.store.protocol import Protocol


def colour_images(count: int = 24, classes: int = 4) -> Images:
    return small_images(count=count, classes=classes, channels=3, side=8)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """A small residual network: its 662 parameters allow for the dense Hessian."""
    return small_net(classes=4)


def residual_images() -> Images:
    return small_images(count=24, classes=4)


@pytest.fixture(scope="module")
def truth(resnet: nn.Module) -> np.ndarray:
    return torch.linalg.eigvalsh(Dense(resnet, residual_images()).hessian).flip(0).numpy()


@pytest.mark.parametrize("name", ["resnet_mcdo_smoothing_18", "resnext_dnn_50", "preresnet_dnn_18", "vgg_dnn_11"])
def test_products_of_the_papers_networks_agree_with_plain_double_backward(name: str) -> None:
    net = nets.build(name, num_classes=4, width=1).eval()
    data = small_images(count=6, classes=4, channels=3, side=32)
    measured = Objective(net, data, protocol=Protocol(dtype="float64"), micro_batch=4)
    net = net.double()
    vector = torch.randn(measured.size, generator=generator(0), dtype=torch.float64)
    with Masks.off():
        loss = nn.functional.cross_entropy(net(data.images.double()), data.labels)
    parameters = list(net.parameters())
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    rows = torch.autograd.grad(gradients, parameters, measured.space.split(vector))
    plain = torch.cat([row.reshape(-1) for row in rows])
    assert float((CurvatureOperator(measured)(vector) - plain).norm() / plain.norm()) < 1e-10


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-6), ("float32", 1e-4)])
def test_top_five_of_a_resnet_agree_with_the_dense_hessian(
    resnet: nn.Module, truth: np.ndarray, dtype: str, tolerance: float
) -> None:
    objective = Objective(resnet, residual_images(), protocol=Protocol(dtype=dtype))
    found = spectrum(objective, only=("top",), tolerance=tolerance / 10 if dtype == "float64" else tolerance)
    assert found["eigenvalue"].values == pytest.approx(truth[:5], rel=tolerance)
    assert bool(found["converged"].values.all())
    assert np.all(np.abs(found["eigenvalue"].values - truth[:5]) <= found["residual"].values)
    assert float(found["smallest_eigenvalue"]) == pytest.approx(truth[-1], rel=1e-3, abs=1e-6 * truth[0])


def test_weight_decay_moves_the_spectrum_by_itself(resnet: nn.Module, truth: np.ndarray) -> None:
    objective = Objective(resnet, residual_images(), protocol=Protocol(dtype="float64"), weight_decay=0.25)
    found = spectrum(objective, only=("top",), tolerance=1e-8)
    assert found["eigenvalue"].values - truth[:5] == pytest.approx(0.25, rel=1e-6)


# PyHessian differentiates through .backward(create_graph=True), about which torch warns.
@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True")
def test_pyhessian_finds_the_same_within_its_own_tolerance(resnet: nn.Module, truth: np.ndarray) -> None:
    pyhessian = pytest.importorskip("pyhessian")
    data = residual_images()
    with torch.random.fork_rng(devices=[]):
        peer = pyhessian.hessian(resnet, nn.CrossEntropyLoss(), data=(data.images, data.labels), cuda=False)
        values, _ = peer.eigenvalues(maxIter=200, tol=1e-4, top_n=2)
    for parameter in resnet.parameters():
        parameter.grad = None
    assert values == pytest.approx(truth[:2], rel=2e-2)


def test_curvlinops_gives_the_same_products(resnet: nn.Module) -> None:
    curvlinops = pytest.importorskip("curvlinops")
    data = residual_images()
    operator = CurvatureOperator(Objective(resnet, data))
    parameters = list(resnet.parameters())
    peer = curvlinops.HessianLinearOperator(resnet, nn.CrossEntropyLoss(), parameters, [(data.images, data.labels)])
    vector = torch.randn(operator.size, generator=generator(0))
    assert float((operator(vector) - peer @ vector).norm() / operator(vector).norm()) < 1e-4


def test_density_and_trace_agree_with_the_dense_hessian() -> None:
    objective = Objective(small_net(), small_images(), protocol=Protocol(dtype="float64"), weight_decay=0.05)
    found = spectrum(objective, probes=3, steps=30, trace_products=40)
    values = torch.linalg.eigvalsh(Dense(small_net(), small_images(), weight_decay=0.05).hessian).numpy()
    assert abs(float(found["trace"]) - values.sum()) < 4 * float(found["trace_stderr"]) + 1e-6
    assert found["weight"].sum("quadrature_node").values == pytest.approx(1.0)
    mean = float((found["node"] * found["weight"]).sum("quadrature_node").mean())
    assert mean == pytest.approx(values.mean(), rel=0.1)
    assert float(found["l2_trace"]) == pytest.approx(0.05 * len(values))


def test_sampling_error_is_that_of_drawing_other_images() -> None:
    everything = dataclasses.replace(small_images(count=320), population=320)
    net = small_net()
    spread, stated = [], []
    for seed in range(12):
        objective = Objective(net, everything, protocol=Protocol(dtype="float64", images=80, subset_seed=seed))
        found = spectrum(objective, only=("top",), top=1)
        spread.append(float(found["eigenvalue"][0]))
        stated.append(float(found["sampling_stderr"][0]))
    # Twelve draws tell a standard deviation to about a fifth; the factor allows for twice that.
    assert 0.6 < np.std(spread, ddof=1) / np.mean(stated) < 1.7
    whole = spectrum(Objective(net, everything, protocol=Protocol(dtype="float64")), only=("top",), top=1)
    assert float(whole["sampling_stderr"][0]) == 0.0
    # All images of a file are a sample of a population that nobody knows: half the error of a quarter of them.
    unknown = dataclasses.replace(everything, population=None)
    found = spectrum(Objective(net, unknown, protocol=Protocol(dtype="float64")), only=("top",), top=1)
    quarter = np.mean(stated) / np.sqrt(1 - 80 / 320)
    assert 0.6 < float(found["sampling_stderr"][0]) / (quarter / 2) < 1.7


def test_sampling_error_does_not_depend_on_the_order_in_which_a_user_keeps_the_examples() -> None:
    data = small_images(count=320, classes=8)
    net = small_net(classes=8)
    by_class = data.select(data.labels.argsort(stable=True))
    found = {
        name: spectrum(Objective(net, each, protocol=Protocol(dtype="float64")), only=("top",), top=1)
        for name, each in {"drawn": data, "by class": by_class}.items()
    }
    errors = {name: float(each["sampling_stderr"][0]) for name, each in found.items()}
    values = [float(each["eigenvalue"][0]) for each in found.values()]
    assert values[0] == pytest.approx(values[1], rel=1e-9)
    assert 0.6 < errors["by class"] / errors["drawn"] < 1.7
    groups = image_group_spectrum(Objective(net, by_class, protocol=Protocol(dtype="float64")), group=20, top=1)
    spread = float(groups["quotient_of_group"].std(ddof=1)) / np.sqrt(groups.sizes["group"])
    assert 0.6 < spread / errors["drawn"] < 1.7


def test_four_kinds_have_four_spectra_and_the_same_seed_gives_the_same_bits() -> None:
    data = small_images(count=8, classes=4, channels=3, side=16)
    found = {}
    for kind in ("dnn", "mcdo", "dnn_smoothing", "mcdo_smoothing"):
        for run in range(2):
            net = nets.build(f"resnet_{kind}_18", num_classes=4, width=2)
            objective = Objective(net, data, protocol=Protocol(dropout="fixed"))
            found[kind, run] = eigenpairs(CurvatureOperator(objective), 2).values
        assert np.array_equal(found[kind, 0], found[kind, 1])
    for first, second in itertools.combinations(("dnn", "mcdo", "dnn_smoothing", "mcdo_smoothing"), 2):
        assert not np.allclose(found[first, 0], found[second, 0], rtol=1e-3)


def test_a_vision_transformer_has_a_spectrum() -> None:
    transformers = pytest.importorskip("transformers")
    settings = transformers.ViTConfig(
        image_size=8,
        patch_size=4,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=4,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = transformers.ViTForImageClassification(settings).eval()
    data = colour_images()
    objective = Objective(net, data, protocol=Protocol(dtype="float64"))
    operator = CurvatureOperator(objective)
    found = spectrum(objective, only=("top",), top=2)
    pairs = eigenpairs(operator, 2)
    image = operator(pairs.vectors)
    residual = (image - pairs.vectors * torch.from_numpy(pairs.values)).norm(dim=0).numpy()
    assert np.all(residual <= pairs.residuals * (1 + 1e-9))
    assert found["eigenvalue"].values == pytest.approx(pairs.values, rel=1e-6)
    step = 1e-4
    vector = pairs.vectors[:, 0]
    difference = (
        objective.gradient(objective.point + step * vector) - objective.gradient(objective.point - step * vector)
    ) / (2 * step)
    assert float((difference - image[:, 0]).norm() / image[:, 0].norm()) < 1e-4


class Seen(nn.Module):
    """Tanh, whose node saves its own output; remembers the outputs without keeping them."""

    outputs: ClassVar[list[weakref.ref[torch.Tensor]]] = []

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        output = features.tanh()
        self.outputs.append(weakref.ref(output))
        return output


def test_an_operator_that_is_gone_leaves_no_graph_behind() -> None:
    data = small_images()
    pixels = data.images[0].numel()
    net = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 4), Seen(), nn.Linear(4, data.classes))
    objective = Objective(net, data)
    Seen.outputs.clear()
    operator = CurvatureOperator(objective)
    operator(torch.ones(objective.size))
    assert any(output() is not None for output in Seen.outputs)
    del operator
    gc.collect()
    assert [output() for output in Seen.outputs if output() is not None] == []


@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_many_images_are_measured_by_way_of_a_sample_to_the_same_bounds(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, data = small_net(classes=4), small_images(count=96, classes=4)
    dense = getattr(Dense(net, data), kind)
    kept: list[Eigenpairs] = []
    plain = spectrum(Objective(net, data, micro_batch=16, memory=0), only=("top",), operator=kind)
    assert "sample_images" not in plain.attrs
    monkeypatch.setattr(of_sample, "_LEAST", 24)
    monkeypatch.setattr(of_sample, "_TIMES", 4)
    for micro_batch, memory in ((16, 0), (32, 10**9)):
        objective = Objective(net, data, micro_batch=micro_batch, memory=memory)
        found = spectrum(objective, only=("top",), operator=kind, keep_vectors=kept.append, by_sample=True)
        assert found.attrs["sample_images"] == 24
        assert found.attrs["sample_products"] > 0
        # On all the images, not on the sample: against the dense matrix of all, in float64.
        vectors = kept[-1].vectors.double()
        values = torch.from_numpy(found["eigenvalue"].values)
        true = (dense @ vectors - vectors * values).norm(dim=0).numpy()
        assert (true <= found["residual"].values).all()
        truth = torch.linalg.eigvalsh(dense).flip(0).numpy()
        assert found["eigenvalue"].values == pytest.approx(truth[:5], rel=2e-4, abs=1e-6)
        assert abs(float(found["smallest_eigenvalue"]) - truth[-1]) <= float(found["smallest_residual"])
        assert bool(found["converged"].values.all())
        assert float(found["missed_probability"]) <= 0.05
    assert found["eigenvalue"].values == pytest.approx(plain["eigenvalue"].values, rel=3e-4, abs=1e-6)
