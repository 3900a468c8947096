import copy
import functools

import pytest
import torch
from nets_for_tests import Dense, small_images, small_net
from torch import nn

from landscape.compute.randomness import generator
from landscape.eigen import eigenpairs
from landscape.errors import LandscapeError
from landscape.hessian.sampling import sampling
from landscape.nets import MCDropout
from landscape.objective import CurvatureOperator, Inference, Objective, folding, losses
from landscape.store.protocol import Protocol

EXACT = Protocol(dtype="float64")


def relative(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float((found.double() - truth).norm() / truth.norm())


def objective(net: nn.Module | None = None, **settings: object) -> Objective:
    settings = {"protocol": EXACT, "micro_batch": 10} | settings
    return Objective(net or small_net(), small_images(), **settings)


@pytest.fixture(scope="module")
def dense() -> Dense:
    return Dense(small_net(), small_images(), weight_decay=0.1)


@pytest.mark.parametrize("memory", [None, 0])
@pytest.mark.parametrize("where", ["graph", "product"])
def test_out_of_memory_means_smaller_micro_batches(
    dense: Dense, memory: int | None, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = CurvatureOperator._graph

    def greedy(self: CurvatureOperator, place: int) -> object:
        start, stop = self._ranges[place]

        def fail(*_: object) -> None:
            raise torch.OutOfMemoryError

        if stop - start <= 2:
            return build(self, place)
        return fail() if where == "graph" else fail

    operator = CurvatureOperator(objective(weight_decay=0.1, memory=memory))
    monkeypatch.setattr(CurvatureOperator, "_graph", greedy)
    vector = torch.randn(operator.size, generator=generator(0), dtype=torch.float64)
    assert relative(operator @ vector, dense.hessian @ vector) < 1e-12
    assert operator.plan.micro_batch == 2
    assert operator.products == 1


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-6)])
@pytest.mark.parametrize("kind", ["hessian", "ggn", "fisher"])
@pytest.mark.parametrize("memory", [None, 0])
def test_products_agree_with_the_dense_matrix(
    dense: Dense, dtype: str, tolerance: float, kind: str, memory: int | None
) -> None:
    measured = objective(weight_decay=0.1, protocol=Protocol(dtype=dtype), memory=memory)
    operator = CurvatureOperator(measured, kind)
    plan = operator.plan
    assert operator.predicted_seconds() > 0
    assert operator.products == 0
    vectors = torch.randn(measured.size, 3, generator=generator(1), dtype=torch.float64)
    truth = getattr(dense, kind) @ vectors
    assert relative(operator(vectors.to(measured.dtype)), truth) < tolerance
    assert relative(operator(vectors[:, 0].to(measured.dtype)), truth[:, 0]) < tolerance
    assert operator.products == 4
    assert operator.plan == plan
    assert plan.kept == (4 if memory is None else 0)


def test_value_and_gradient_agree_with_the_dense_ones(dense: Dense) -> None:
    measured = objective(weight_decay=0.1)
    terms = measured.value()
    assert terms.loss == pytest.approx(dense.loss, rel=1e-12)
    assert terms.loss == terms.cross_entropy + terms.l2
    assert terms.l2 == pytest.approx(0.05 * float(dense.point.square().sum()), rel=1e-12)
    assert relative(measured.gradient(), dense.gradient) < 1e-12


def test_a_ragged_last_batch_weighs_as_much_as_its_size() -> None:
    values = {size: objective(micro_batch=size).value().loss for size in (1, 7, 36, 37)}
    assert max(values.values()) - min(values.values()) < 1e-12


def test_weight_decay_moves_every_eigenvalue_by_exactly_itself() -> None:
    vectors = torch.randn(objective().size, 2, generator=generator(0), dtype=torch.float64)
    plain = CurvatureOperator(objective())(vectors)
    decayed = CurvatureOperator(objective(weight_decay=0.3))(vectors)
    assert torch.allclose(decayed - plain, 0.3 * vectors, atol=1e-12)


def test_the_unsquared_reading_of_weight_decay_against_automatic_differentiation() -> None:
    measured = objective(weight_decay=0.2, protocol=EXACT.replace(l2="unsquared"))
    vector = torch.randn(measured.size, generator=generator(0), dtype=torch.float64)

    def l2(point: torch.Tensor) -> torch.Tensor:
        return 0.2 * sum(part.norm() for part in point.split(measured.space.sizes))

    truth = torch.autograd.functional.hvp(l2, measured.point, vector)[1]
    parameters = measured.space.split(measured.point)
    assert torch.allclose(measured.l2.product(parameters, vector[:, None])[:, 0], truth, atol=1e-12)
    assert measured.value().l2 == pytest.approx(float(l2(measured.point)), rel=1e-12)
    units = torch.eye(measured.size, dtype=torch.float64)
    assert measured.l2.trace(parameters) == pytest.approx(float(measured.l2.product(parameters, units).trace()))
    parameters[-1].zero_()  # biases that were never trained
    assert measured.l2.trace(parameters) == pytest.approx(float(measured.l2.product(parameters, units).trace()))


def test_the_users_model_is_left_exactly_as_it_was() -> None:
    net = small_net().train()
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = copy.deepcopy(net.state_dict())
    state = torch.random.get_rng_state()
    measured = objective(net, weight_decay=0.1)
    measured.gradient()
    CurvatureOperator(measured)(measured.point)
    assert net.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(bool((parameter.grad == 1).all()) and parameter.requires_grad for parameter in net.parameters())
    assert torch.equal(state, torch.random.get_rng_state())


def test_batch_norm_is_folded_where_only_it_sees_the_convolution() -> None:
    net = small_net()
    images = small_images().batch(0, 4)
    truth = net(images)
    assert ("5.conv", "5.bn") not in folding.pairs(net, lambda: net(images))
    folding.prepare(net, lambda: net(images))
    kinds = [type(module) for module in net.modules()]
    assert kinds.count(folding.FoldedConvolution) == 4
    assert kinds.count(folding.AffineNorm) == 2
    assert not any(isinstance(module, nn.BatchNorm2d) and module.training for module in net.modules())
    assert torch.allclose(net(images), truth, atol=1e-5)


def test_frozen_and_unused_parameters_are_left_out_and_said_so() -> None:
    net = small_net()
    net[0].weight.requires_grad_(False)
    net.register_parameter("never", nn.Parameter(torch.ones(3)))
    measured = objective(net)
    assert measured.left_out == {"0.weight": "frozen", "never": "unused"}
    assert measured.size == sum(p.numel() for p in net.parameters()) - 72 - 3


class Routed(nn.Module):
    """Asks a second part for some examples alone, and does not call it where there are none."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(1, 2), nn.Linear(1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chosen = (x[:, 0] > 35).nonzero()[:, 0]
        return self.first(x).index_add(0, chosen, self.second(x[chosen])) if len(chosen) else self.first(x)


def test_parts_that_few_examples_use_count() -> None:
    x = torch.arange(40.0)[:, None]
    measured = Objective(Routed(), (x, torch.arange(40) % 2))
    assert measured.names == ["first.weight", "first.bias", "second.weight", "second.bias"]


def test_some_parameters_alone_give_the_block_of_the_matrix(dense: Dense) -> None:
    measured = objective(weight_decay=0.1)
    part = measured.restricted([name for name in measured.names if name.startswith("3.")])
    where = torch.cat(
        [
            torch.arange(place.start, place.stop)
            for name, place in measured.space.slices().items()
            if name.startswith("3.")
        ]
    )
    vector = torch.randn(part.size, generator=generator(0), dtype=torch.float64)
    assert relative(CurvatureOperator(part)(vector), dense.hessian[where][:, where] @ vector) < 1e-12


def test_a_mini_batch_counts_as_if_it_were_everything() -> None:
    data = small_images()
    mini = CurvatureOperator(objective(), first=10, last=20)
    alone = Objective(small_net(), data.select(torch.arange(10, 20)), protocol=EXACT)
    vector = torch.randn(alone.size, generator=generator(0), dtype=torch.float64)
    assert torch.allclose(mini(vector), CurvatureOperator(alone)(vector), atol=1e-12)


def test_projections_of_micro_batches_average_to_the_whole() -> None:
    operator = CurvatureOperator(objective())
    vectors = torch.linalg.qr(torch.randn(operator.size, 2, generator=generator(0), dtype=torch.float64)).Q
    projections, numbers, counts = operator.batch_projections(vectors)
    assert numbers.tolist() == list(range(len(counts)))
    whole = vectors.T @ operator(vectors)
    assert torch.allclose((projections * counts[:, None, None]).sum(0) / 37, whole, atol=1e-12)


def dropout_net() -> nn.Module:
    net = small_net()
    return nn.Sequential(*list(net)[:4], MCDropout(0.4), *list(net)[4:]).eval()


def test_fixed_masks_are_a_function_of_seed_and_sample_and_not_of_batches() -> None:
    fixed = EXACT.replace(dropout="fixed")
    first, second = (objective(dropout_net(), protocol=fixed, micro_batch=size) for size in (5, 37))
    assert first.value().loss == pytest.approx(second.value().loss, rel=1e-13)
    assert first.value(sample=1).loss != first.value(sample=0).loss
    assert objective(dropout_net(), protocol=fixed.replace(mask_seed=1)).value().loss != first.value().loss
    vector = torch.randn(first.size, generator=generator(0), dtype=torch.float64)
    operator = CurvatureOperator(first)
    assert torch.equal(operator(vector), operator(vector))


def test_with_dropout_off_the_network_is_the_one_without_dropout() -> None:
    assert objective(dropout_net()).value().loss == pytest.approx(objective().value().loss, rel=1e-13)


def test_batch_statistics_are_those_of_each_batch() -> None:
    net = small_net()
    measured = objective(net, protocol=EXACT.replace(batch_norm="batch"), micro_batch=37)
    trained = copy.deepcopy(net).double().train()
    data = small_images()
    with torch.no_grad():
        truth = nn.functional.cross_entropy(trained(data.images.double()), data.labels)
    assert measured.value().loss == pytest.approx(float(truth), rel=1e-12)


def test_recalibrated_statistics_do_not_depend_on_the_stored_ones() -> None:
    protocol = EXACT.replace(batch_norm="recalibrated")
    net = small_net()
    losses = [objective(net, protocol=protocol).value().loss]
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    losses.append(objective(net, protocol=protocol).value().loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    measured = objective(net, protocol=protocol)
    away = measured.value(measured.point * 1.1).loss
    assert away != losses[0]
    assert measured.value().loss == pytest.approx(losses[0], rel=1e-12)


def test_batches_that_recalibrate_are_mixed_where_a_user_keeps_examples_class_by_class() -> None:
    labels = torch.arange(1024) // 512
    inputs = torch.randn(1024, 6, generator=generator(0, "inputs")) + 4.0 * labels[:, None]
    net = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 2))
    measured = Objective(net, (inputs, labels), protocol=EXACT.replace(batch_norm="recalibrated"))
    net.double().train()[0].momentum = 1.0
    net(inputs.double())
    truth = Objective(net, (inputs, labels), protocol=EXACT).value().loss
    assert measured.value().loss == pytest.approx(truth, rel=0.01)


def test_a_ragged_last_batch_recalibrates_with_the_weight_of_its_size() -> None:
    data, protocol = small_images(), EXACT.replace(batch_norm="recalibrated")
    rows = torch.arange(129) % 37
    inputs, labels = data.images[rows].clone(), data.labels[rows]
    inputs[128] += 20  # on its own in the last batch of 128
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(72), nn.Linear(72, 3))
    found = [Objective(net, (inputs, labels), protocol=protocol, micro_batch=size) for size in (16, 256)]
    assert found[0].value().loss == pytest.approx(found[1].value().loss, rel=1e-12)
    net.double().train()[1].momentum = 1.0
    net(inputs.double())
    truth = Objective(net, (inputs, labels), protocol=EXACT).value().loss
    assert found[0].value().loss == pytest.approx(truth, rel=1e-12)
    # 128 and 3 of 131: weighted, not one half each.
    more = torch.cat([inputs, inputs[:2]])
    measured = Objective(net, (more, labels[torch.arange(131) % 129]), protocol=protocol)
    mean = next(iter(measured._statistics(measured.point, 0).values()))
    assert torch.allclose(mean, more.double().flatten(1).mean(0), atol=1e-12)


def test_statistics_of_each_batch_are_never_of_a_part_of_it_or_of_one_example() -> None:
    net, x = (
        nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)),
        torch.randn(257, 2, generator=generator(0)),
    )
    whole = Objective(net, (x[:256], torch.arange(256) % 2), protocol=EXACT.replace(batch_norm="batch"))
    curvature = CurvatureOperator(whole)
    pairs = eigenpairs(curvature, 1)
    projections = curvature.batch_projections(pairs.vectors)[0][:, 0, 0]
    found = sampling(curvature, pairs.values, pairs.vectors)
    assert found.stderr == pytest.approx(float(projections.std()) / 2**0.5, rel=1e-9)
    with pytest.raises(LandscapeError, match="no statistics of a batch of one example"):
        Objective(net, (x, torch.arange(257) % 2), protocol=EXACT.replace(batch_norm="batch")).value()


class Noisy(nn.Module):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features + torch.randn_like(features)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lambda: nn.Sequential(small_net(), Noisy()), "different outputs for the same images"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), small_net()), r"cannot take images of shape \(2, 6, 6\)"),
        (lambda: small_net(classes=2), "label 2 in random is beyond the network's 2 outputs"),
        (lambda: small_net().requires_grad_(False), "no parameter counts"),
        (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), "1.weight has no shape yet: call the network once"),
        (lambda: torch.jit.trace(small_net(), torch.zeros(1, 2, 6, 6)), "TorchScript.*give the plain module"),
    ],
)
def test_what_would_be_silently_wrong_is_refused(net: object, message: str) -> None:
    with pytest.raises(LandscapeError, match=message):
        Objective(net(), small_images())


def test_a_weight_that_is_not_finite_is_named() -> None:
    net = small_net()
    net[3].conv2.weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(LandscapeError, match=r"^3\.conv2\.weight holds 1 values that are not finite"):
        objective(net)


def test_attention_has_a_second_derivative() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Linear(2, 12)
            self.out = nn.Linear(4, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            tokens = self.project(images.flatten(2).mT)
            query, key, value = tokens.chunk(3, dim=-1)
            mixed = nn.functional.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])
            return self.out(mixed[:, 0].mean(1))

    net = Attention()
    measured = Objective(net, small_images(), protocol=EXACT)
    vector = torch.randn(measured.size, generator=generator(0), dtype=torch.float64)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        truth = Dense(net, small_images()).hessian @ vector
    assert relative(CurvatureOperator(measured)(vector), truth) < 1e-12


def test_a_network_may_read_attributes_of_what_is_folded() -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 3, 3, 2, bias=False), nn.BatchNorm2d(3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert self.conv.stride == (2, 2)
            return self.norm(self.conv(images)).mean((2, 3)) * self.norm.eps**0

    for protocol in (EXACT, EXACT.replace(batch_norm="batch")):
        measured = Objective(Reading(), small_images(), protocol=protocol)
        assert CurvatureOperator(measured)(measured.point).isfinite().all()
        if protocol.batch_norm == "running":
            assert Inference(measured).outputs(0, 4).isfinite().all()


def test_losses_of_different_settings_have_different_names() -> None:
    def names(settings: dict[str, object]) -> list[str]:
        function = torch.nn.functional.cross_entropy
        return [
            losses.resolved(torch.nn.CrossEntropyLoss(**settings)).name,  # type: ignore[arg-type]
            losses.resolved(functools.partial(function, **settings)).name,  # type: ignore[arg-type]
        ]

    weights = {"weight": torch.tensor([1.0, 2, 3])}
    given: list[dict[str, object]] = [{}, {"label_smoothing": 0.1}, {"weight": torch.ones(3)}, {**weights}]
    every = [name for settings in given for name in names(settings)]
    assert len(set(every)) == len(every)
    assert names({**weights}) == names({"weight": weights["weight"].clone()})
