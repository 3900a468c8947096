import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from landscape import nets
from landscape.compute.randomness import generator
from landscape.data import Images
from landscape.errors import LandscapeError
from landscape.look import depths
from landscape.nets.smoothing import factory
from landscape.objective import Objective


def images(side=64, count=2):
    return torch.randn(count, 3, side, side, generator=generator(0, "test", "images"))


def smoothed(features):
    return factory(None)(features.shape[1])(features)


def state(model):
    return {name: value.clone() for name, value in model.named_parameters()}


def same_state(model, before):
    after = state(model)
    assert list(after) == list(before)
    return all(torch.equal(after[name], before[name]) for name in before)


def seeded(model):
    """Weights large enough for every layer to matter."""
    for name, value in model.named_parameters():
        spread = 2 / value[0].numel() ** 0.5 if value.dim() > 1 else 0.3
        value.data = value.dim() % 2 + spread * torch.randn(value.shape, generator=generator(0, "test", name))
    return model.eval()


class Block(nn.Module):
    """A residual block as others write it: ReLU as a function, a strided shortcut, a gate."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.gate = nn.Linear(outputs, outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, features):
        inner = self.conv2(functional.relu(self.bn1(self.conv1(features))))
        gate = torch.sigmoid(self.gate(inner.mean((2, 3))))[..., None, None]
        return functional.relu(inner * gate + self.shortcut(features))


class Foreign(nn.Module):
    """Everything that a module hook alone would not see: pooling, global pooling and ReLU as functions."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2, 1)
        self.bn = nn.BatchNorm2d(4)
        self.one = Block(4, 6, 1)
        self.two = Block(6, 8, 2)
        self.conv3 = nn.Conv2d(8, 8, 3, 2, 1)
        self.bn3 = nn.BatchNorm2d(8)
        self.dense = nn.Linear(8, 5)

    def forward(self, images, smooth=lambda features: features):
        features = functional.max_pool2d(functional.relu(smooth(self.bn(self.conv(images)))), 2)
        features = self.two(smooth(self.one(features)))
        features = functional.relu(smooth(self.bn3(self.conv3(smooth(features)))), inplace=True)
        return self.dense(functional.adaptive_avg_pool2d(features, 1).flatten(1))


class Small(nn.Module):
    """Sizes that must fit a dense layer."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU())
        self.dense = nn.Linear(4 * 14 * 14, 5)

    def forward(self, images):
        return self.dense(self.features(images).flatten(1))


@pytest.mark.parametrize(
    ("plain", "built", "arguments"),
    [
        ("resnet_dnn_18", "resnet_dnn_smoothing_18", {}),
        ("resnet_dnn_50", "resnet_dnn_smoothing_50", {}),
        ("preresnet_dnn_18", "preresnet_dnn_smoothing_18", {"stages": (1, 1, 1, 1)}),
        ("preresnet_dnn_50", "preresnet_dnn_smoothing_50", {"stages": (1, 1, 1, 1)}),
        ("vgg_dnn_11", "vgg_dnn_smoothing_11", {}),
        ("prevgg_dnn_11", "prevgg_dnn_smoothing_11", {}),
        ("alexnet_dnn", "alexnet_dnn_smoothing", {}),
    ],
)
def test_a_plain_network_of_ours_becomes_the_smoothed_one(plain, built, arguments):
    model = nets.build(plain, num_classes=5, width=4).eval()
    twin = nets.build(built, num_classes=5, width=4, **arguments).eval()
    twin.load_state_dict(model.state_dict())
    before, weights = model(images()), state(model)
    model = nets.smooth(model)
    report = nets.report(model)
    assert torch.equal(model(images()), twin(images()))
    assert not torch.equal(model(images()), before)
    assert same_state(model, weights)
    found = [point.name for point in depths.find(model, images()).points if point.kind == "smoothing"]
    assert found == [placement.name for placement in report.placed]
    assert torch.equal(nets.unsmooth(model)(images()), before)


def test_a_stem_has_one_more_before_its_pooling_and_none_on_the_images():
    model = nets.build("resnet_dnn_18", num_classes=5, width=4, stem=True)
    model = nets.smooth(model)
    report = nets.report(model)
    assert [placement.module for placement in report.placed] == ["layer0.3", "layer2", "layer3", "layer4", "classifier"]
    assert [left.subsampling for left in report.left_out] == ["layer0.0 (conv2d)"]


def test_global_pooling_behind_pooling_has_one_of_its_own():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert [placement.module for placement in nets.report(nets.smooth(model)).placed] == ["1", "2"]
    fitted = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    assert [placement.module for placement in nets.report(nets.smooth(fitted)).placed] == ["1"]


def test_functions_are_seen():
    model = seeded(Foreign())
    expected, before, weights = model(images(), smoothed), model(images()), state(model)
    model = nets.smooth(model)
    report = nets.report(model)
    assert torch.allclose(model(images()), expected, atol=1e-6)
    assert same_state(model, weights)
    assert [(placement.side, placement.module) for placement in report.placed] == [
        ("after", "bn"),
        ("before", "two"),
        ("before", "conv3"),
        ("after", "bn3"),
    ]
    assert report.placed[1].subsampling == ("two.conv1 (conv2d)", "two.shortcut (conv2d)")
    # The image, and the gates of two blocks.
    assert len(report.left_out) == 3
    lines = str(report).splitlines()
    assert len(lines) == 7
    assert (
        lines[1] == f"{report.placed[1].name}: before two (6 x 16 x 16), for two.conv1 (conv2d), two.shortcut (conv2d)"
    )
    model = nets.unsmooth(model)
    assert torch.equal(model(images()), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_plain_sequential():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, 1, 1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, 2, 1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    ).eval()
    layers, plain = list(model), model
    features = layers[2](smoothed(layers[1](layers[0](images()))))
    features = layers[5](layers[4](layers[3](smoothed(features))))
    expected = layers[8](smoothed(features).mean((2, 3)))
    keys, before = list(model.state_dict()), model(images())
    model = nets.smooth(model)
    report = nets.report(model)
    names = ["0", "1", "smooth_before_2", "2", "smooth_before_3", "3", "4", "5", "smooth_before_6", "6", "7", "8"]
    assert list(model._modules) == names
    assert [placement.module for placement in report.placed] == ["2", "3", "6"]
    assert torch.allclose(model(images()), expected, atol=1e-6)
    assert list(model.state_dict()) == keys
    assert torch.equal(nets.unsmooth(model)(images()), before)
    assert [type(layer) for layer in nets.unsmooth(model)] == [type(layer) for layer in layers]
    assert list(plain) == layers
    assert torch.equal(plain(images()), before)


def test_a_transformers_convnext():
    transformers = pytest.importorskip("transformers")
    settings = transformers.ConvNextConfig(hidden_sizes=[4, 8, 12, 16], depths=[1, 1, 1, 1], num_labels=5)
    model = transformers.ConvNextForImageClassification(settings).eval()
    before, weights = model(images()).logits, state(model)
    model = nets.smooth(model)
    report = nets.report(model)
    stages = [f"convnext.encoder.stages.{stage}.downsampling_layer.1" for stage in (1, 2, 3)]
    assert [(placement.side, placement.module) for placement in report.placed] == [
        *(("before", stage) for stage in stages),
        ("after", "convnext.encoder.stages.3"),
    ]
    assert [left.subsampling for left in report.left_out] == ["convnext.embeddings.patch_embeddings (conv2d)"]
    assert same_state(model, weights)
    assert not torch.allclose(model(images()).logits, before)
    # By hand, from the same parts.
    tower = nets.unsmooth(model)
    features = tower.convnext.embeddings(images())
    for number, stage in enumerate(tower.convnext.encoder.stages):
        if number:
            features = stage.downsampling_layer[1](smoothed(stage.downsampling_layer[0](features)))
        for layer in stage.layers:
            features = layer(features)
    logits = tower.classifier(tower.convnext.layernorm(smoothed(features).mean((2, 3))))
    assert torch.allclose(model(images()).logits, logits, atol=1e-6)
    assert torch.equal(nets.unsmooth(model)(images()).logits, before)


def test_layers_keep_the_sizes_that_a_network_needs():
    model = seeded(Small())
    given = torch.randn(2, 1, 28, 28, generator=generator(0, "test"))
    model = nets.smooth(model)
    report = nets.report(model)
    assert report.kept_size
    assert "cut to the size" in str(report)
    features = model.features[1](model.features[0](given))
    features = model.features[-1](model.features[-2](smoothed(features)[..., :28, :28]))
    assert torch.allclose(model(given), model.dense(features.flatten(1)), atol=1e-6)


def test_any_layer():
    own = nn.Sequential(nn.Identity(), nets.Blur((1, 2, 1), "reflect"))
    for layer, kind in [
        ("blur(kernel=1-2-1,padding=zero)", nn.Sequential),
        (own, nn.Sequential),
        (nn.BatchNorm2d, nn.BatchNorm2d),
        (lambda channels: nn.Conv2d(channels, channels, 1), nn.Conv2d),
        (nets.Blur, nets.Blur),
    ]:
        model = nets.build("resnet_dnn_18", num_classes=5, width=4)
        model = nets.smooth(model, layer)
        report = nets.report(model)
        placed = [model.get_submodule(placement.name).layer for placement in report.placed]
        assert len({id(each) for each in placed}) == 4
        assert all(type(each) is kind and each is not own for each in placed)
        assert model(images()).shape == (2, 5)


def test_copies_are_independent_and_the_model_keeps_its_mode():
    model = Foreign().double().train()
    model.one.eval()
    random = torch.random.get_rng_state()
    model = nets.smooth(model, lambda channels: nn.Conv2d(channels, channels, 1))
    torch.random.set_rng_state(random)
    assert model.training
    assert not model.one.training
    assert all(value.dtype == torch.float64 for value in model.state_dict().values() if value.is_floating_point())
    model.eval()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, value in twin.named_parameters():
            if "smooth" in name:
                value.zero_()
    given = images().double()
    changed = functional_call(model, dict(twin.named_parameters()), (given,))
    assert torch.equal(twin(given), changed)
    assert not torch.equal(model(given), twin(given))
    assert len(list(model.parameters())) > len(list(nets.unsmooth(twin).parameters()))


def test_running_it_draws_and_learns_nothing():
    model = nets.build("resnet_mcdo_18", num_classes=5, width=4).train()
    random, statistics = torch.random.get_rng_state(), copy.deepcopy(model.state_dict())
    smoothed_copy = nets.smooth(model)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(torch.equal(value, statistics[name]) for name, value in smoothed_copy.state_dict().items())
    assert all(torch.equal(value, statistics[name]) for name, value in model.state_dict().items())


def test_an_objective_sees_the_layers():
    # Folding of batch norm takes convolutions and norms out of their places: hooks on them must not be lost.
    labels = torch.arange(8) % 5
    data = Images(images(32, 8), labels, classes=5, name="noise", split="train", mean=None, std=None)
    model = seeded(Foreign())
    plain = Objective(model, data).value().cross_entropy
    model = nets.smooth(model)
    expected = functional.cross_entropy(model(data.images), labels).item()
    objective = Objective(model, data)
    assert abs(objective.value().cross_entropy - expected) < 1e-5
    assert abs(expected - plain) > 0.01
    gradient = objective.gradient()
    step = 1e-2 * gradient / gradient.norm()
    slope = gradient @ step
    secant = (objective.value(objective.point + step).loss - objective.value(objective.point - step).loss) / 2
    assert abs(slope - secant) < 0.02 * abs(secant)


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU()), {}, "nothing in this network subsamples"),
        (nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(3, 4, 3)), {}, "reads the images themselves"),
        (nn.Sequential(nn.Linear(7, 5)), {}, "give images="),
        (Small(), {"images": torch.zeros(1, 3, 28, 28)}, "(1, 3, 28, 28)"),
        (Foreign(), {"layer": "tanhblur"}, "tanh-blur"),
        (Foreign(), {"layer": lambda channels: nn.Conv2d(channels, 2 * channels, 1)}, "give a layer that keeps shapes"),
    ],
)
def test_bad_input_leaves_the_network_as_it_was(model, arguments, message):
    modules, training = list(model.modules()), model.training
    with pytest.raises(LandscapeError) as error:
        nets.smooth(model, **arguments)
    assert message in str(error.value)
    assert list(model.modules()) == modules
    assert model.training == training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_twice_is_refused_and_unsmooth_of_nothing_is_a_copy():
    model = nets.smooth(Foreign())
    with pytest.raises(LandscapeError, match="unsmooth first"):
        nets.smooth(model)
    assert nets.report(nets.smooth(nets.unsmooth(model))) == nets.report(model)
    plain = Foreign()
    assert same_state(nets.unsmooth(plain), state(plain))
    for network in (plain, nets.unsmooth(model)):
        with pytest.raises(LandscapeError, match="nothing to report"):
            nets.report(network)


def test_the_network_itself_is_not_touched():
    model = seeded(Foreign())
    before, modules, weights = model(images()), list(model.modules()), state(model)
    smooth = nets.smooth(model)
    with torch.no_grad():
        for value in smooth.parameters():
            value.zero_()
    nets.unsmooth(smooth)
    assert list(model.modules()) == modules
    assert same_state(model, weights)
    assert torch.equal(model(images()), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_network_that_cannot_be_copied():
    model = Foreign()
    model.kept = model(images())
    with pytest.raises(LandscapeError, match="cannot be copied"):
        nets.smooth(model)
