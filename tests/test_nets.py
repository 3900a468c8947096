import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn import functional

from landscape import nets
from landscape.compute.masks import Masks, keep_level
from landscape.compute.randomness import generator
from landscape.errors import LandscapeError
from landscape.nets import vision_transformer
from landscape.nets.smoothing import factory

ONE_EACH = [
    "resnet_{}_18",
    "resnet_{}_50",
    "preresnet_{}_18",
    "preresnet_{}_50",
    "resnext_{}_50",
    "wideresnet_{}_50",
    "vgg_{}_11",
    "prevgg_{}_11",
    "alexnet_{}",
]


def named(pattern, kind):
    family, _, size = pattern.partition("_{}")
    return f"{family}_{kind}{size}"


def images(count=2, side=16, dtype=torch.float32):
    return torch.randn(count, 3, side, side, generator=generator(0, "test", "images"), dtype=dtype)


def features(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=generator(0, "test", "features"), dtype=dtype)


# Names and sizes ------------------------------------------------------------------------------------------------------


def test_names_are_the_papers():
    sizes = {
        "resnet": ("18", "34", "50", "101", "152"),
        "preresnet": ("18", "34", "50", "101", "152"),
        "resnext": ("50", "101"),
        "wideresnet": ("50", "101"),
        "vgg": ("11", "13", "16", "19"),
        "prevgg": ("11", "13", "16", "19"),
        # Not the paper's: the follow-up's question.
        "vit": ("6",),
    }
    kinds = ("dnn", "mcdo", "dnn_smoothing", "mcdo_smoothing")
    expected = {f"{family}_{kind}_{size}" for family, all in sizes.items() for size in all for kind in kinds}
    expected |= {f"alexnet_{kind}" for kind in kinds}
    assert set(nets.names()) == expected
    assert len(nets.names()) == len(expected)


def test_every_name_builds():
    for name in nets.names():
        with torch.device("meta"):
            least = 1_000 if name.startswith("vit") else 10_000
            assert nets.parameter_count(nets.build(name, num_classes=7, width=4)) > least


@pytest.mark.parametrize("stem", [False, True])
@pytest.mark.parametrize("pattern", ONE_EACH)
def test_every_family_runs_with_and_without_a_stem(pattern, stem):
    model = nets.build(named(pattern, "mcdo_smoothing"), num_classes=7, width=1, stem=stem).eval()
    with torch.no_grad():
        assert model(images(side=64)).shape == (2, 7)


# Published by torchvision for the same networks; where these have no bias in their convolutions, less those biases.
PUBLISHED = {
    "resnet_dnn_18": 11_689_512,
    "resnet_dnn_34": 21_797_672,
    "resnet_dnn_50": 25_557_032,
    "resnet_dnn_101": 44_549_160,
    "resnet_dnn_152": 60_192_808,
    "resnext_dnn_50": 25_028_904,
    "resnext_dnn_101": 88_791_336,
    "wideresnet_dnn_50": 68_883_240,
    "wideresnet_dnn_101": 126_886_696,
    "vgg_dnn_11": 132_868_840 - 2752,
    "vgg_dnn_13": 133_053_736 - 2944,
    "vgg_dnn_16": 138_365_992 - 4224,
    "vgg_dnn_19": 143_678_248 - 5504,
    "alexnet_dnn": 61_100_840 - 1152,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name):
    for kind in ("dnn", "mcdo", "dnn_smoothing", "mcdo_smoothing"):
        with torch.device("meta"):
            model = nets.build(name.replace("dnn", kind), num_classes=1000, stem=True)
        assert nets.parameter_count(model) == PUBLISHED[name]


def test_command_lists_every_name():
    done = subprocess.run(
        [sys.executable, "-m", "landscape.nets", "--num-classes", "100", "--width", "4"],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = dict(line.split() for line in done.stdout.splitlines()[1:])
    assert list(rows) == nets.names()
    model = nets.build("vgg_mcdo_11", num_classes=100, width=4)
    assert int(rows["vgg_mcdo_11"].replace(",", "")) == nets.parameter_count(model)


# State-dict keys ------------------------------------------------------------------------------------------------------


def weights(name, **arguments):
    with torch.device("meta"):
        model = nets.build(name, num_classes=10, width=8, **arguments)
    return {key: tuple(value.shape) for key, value in model.named_parameters()}


def batch_norm(*prefixes):
    return {f"{prefix}.{what}" for prefix in prefixes for what in ("weight", "bias")}


def stages(depths, block, *, first=1):
    return {
        f"layer{stage}.{place}.{key}"
        for stage, depth in enumerate(depths, first)
        for place in range(depth)
        for key in block
    }


BASIC = {"conv1.weight", "conv2.weight"} | batch_norm("bn1", "bn2")
BOTTLENECK = BASIC | {"conv3.weight"} | batch_norm("bn3")
DENSE = {"classifier.0.dense.weight", "classifier.0.dense.bias"}
STEM = {"layer0.0.weight"} | batch_norm("layer0.1")


def shortcuts(*stages, normalized=True):
    each = {"0.weight"} | (batch_norm("1") if normalized else set())
    return {f"layer{stage}.0.shortcut.{key}" for stage in stages for key in each}


def mlp(place):
    return {f"classifier.{place}.dense{i}.{what}" for i in (1, 2, 3) for what in ("weight", "bias")}


def plain(depths, block, head):
    """VGG and AlexNet: max pooling at index 0 of each stage but the first."""
    return {
        f"layer{stage}.{place + (stage > 0)}.{key}"
        for stage, depth in enumerate(depths)
        for place in range(depth)
        for key in block
    } | head


KEYS = {
    "resnet_{}_18": STEM | stages((2, 2, 2, 2), BASIC) | shortcuts(2, 3, 4) | DENSE,
    "resnet_{}_50": STEM | stages((3, 4, 6, 3), BOTTLENECK) | shortcuts(1, 2, 3, 4) | DENSE,
    "resnext_{}_50": STEM | stages((3, 4, 6, 3), BOTTLENECK) | shortcuts(1, 2, 3, 4) | DENSE,
    "wideresnet_{}_50": STEM | stages((3, 4, 6, 3), BOTTLENECK) | shortcuts(1, 2, 3, 4) | DENSE,
    "preresnet_{}_18": {"layer0.0.weight"}
    | stages((2, 2, 2, 2), BASIC)
    | shortcuts(2, 3, 4, normalized=False)
    | batch_norm("classifier.0.bn")
    | DENSE,
    "preresnet_{}_50": {"layer0.0.weight"}
    | stages((3, 4, 6, 3), BOTTLENECK)
    | shortcuts(1, 2, 3, 4, normalized=False)
    | batch_norm("classifier.0.bn")
    | DENSE,
    "vgg_{}_11": plain((1, 1, 2, 2, 2), {"conv.weight"} | batch_norm("bn"), mlp(2)),
    "prevgg_{}_11": plain((1, 1, 2, 2, 2), {"conv.weight"} | batch_norm("bn"), mlp(2)),
    "alexnet_{}": plain((1, 1, 3), {"conv.weight"}, mlp(2)),
}


@pytest.mark.parametrize("kind", ["dnn", "mcdo", "dnn_smoothing", "mcdo_smoothing"])
@pytest.mark.parametrize("pattern", ONE_EACH)
def test_state_dict_keys_are_the_authors(pattern, kind):
    shapes = weights(named(pattern, kind))
    # The authors' stochastic pre-activation bottlenecks have batch norm in the shortcut, their deterministic ones none.
    more = shortcuts(1, 2, 3, 4) if pattern == "preresnet_{}_50" and "mcdo" in kind else set()
    assert shapes.keys() == KEYS[pattern] | more
    with torch.device("meta"):
        state = nets.build(named(pattern, kind), num_classes=10, width=8).state_dict()
    # Besides parameters there is nothing but batch-norm statistics: blur kernels are not saved.
    others = {key.rpartition(".")[2] for key in state.keys() - shapes.keys()}
    assert others <= {"running_mean", "running_var", "num_batches_tracked"}


def test_heads_carry_the_authors_keys():
    for head in ("gap", "global-max", "global-median", "clipped-gap"):
        assert {key for key in weights("resnet_dnn_18", head=head) if key.startswith("classifier")} == DENSE
    with_norm = DENSE | batch_norm("classifier.0.bn")
    assert {key for key in weights("resnet_dnn_18", head="bn-relu-gap") if "classifier" in key} == with_norm
    for head, place in (("mlp", 1), ("gap-mlp", 0)):
        assert {key for key in weights("resnet_dnn_18", head=head) if "classifier" in key} == mlp(place)
    shapes = weights("resnet_dnn_18", head="mlp")
    assert shapes["classifier.1.dense1.weight"] == (512, 7 * 7 * 64)
    assert weights("vgg_dnn_11")["classifier.2.dense1.weight"] == (512, 7 * 7 * 64)
    assert weights("alexnet_dnn")["classifier.2.dense1.weight"] == (512, 2 * 2 * 32)
    assert weights("alexnet_dnn", stem=True)["classifier.2.dense1.weight"] == (512, 6 * 6 * 32)


def test_the_median_of_odd_and_single_maps():
    # The floor(n/2)-th largest, as in the authors' code; of a single position, that one.
    median = nets.build("resnet_dnn_18", num_classes=3, width=1, head="global-median").classifier[0].pool
    for shape, place in [((2, 3, 3, 5), 6), ((2, 3, 1, 2), 0), ((2, 3, 1, 1), 0)]:
        given = features(*shape)
        assert torch.equal(median(given), given.flatten(2).sort(2, descending=True).values[..., place])


def test_batch_norm_of_smoothing_carries_the_authors_keys():
    for variant in ("bn-blur", "bn-tanh-blur"):
        keys = {key for key in weights("resnet_dnn_18", smoothing=variant) if "smooth2" in key}
        assert keys == batch_norm("smooth2.0.bn")


def test_shapes_follow_the_paper():
    shapes = weights("resnet_dnn_50")
    assert shapes["layer2.0.conv1.weight"] == (16, 32, 1, 1)
    assert shapes["layer2.0.conv2.weight"] == (16, 16, 3, 3)
    assert shapes["layer0.0.weight"] == (8, 3, 3, 3)
    assert weights("resnet_dnn_50", stem=True)["layer0.0.weight"] == (8, 3, 7, 7)
    assert weights("wideresnet_dnn_50")["layer1.0.conv2.weight"] == (16, 16, 3, 3)
    assert weights("alexnet_dnn")["layer1.1.conv.weight"] == (24, 8, 5, 5)
    assert weights("alexnet_dnn", stem=True)["layer0.0.conv.weight"] == (8, 3, 11, 11)
    with torch.device("meta"):
        full = nets.build("resnext_dnn_50", num_classes=10)
    grouped = full.get_submodule("layer1.0.conv2")
    assert (grouped.groups, grouped.out_channels) == (32, 128)
    strided = nets.build("resnet_dnn_50", num_classes=10, width=2).get_submodule("layer2.0")
    assert [strided.conv1.stride, strided.conv2.stride] == [(1, 1), (2, 2)]


# What the networks compute --------------------------------------------------------------------------------------------


def sizes(model, side):
    found = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda module, arguments, output, name=name: found.update({name: output.shape[-1]})
        )
        for name, _ in model.named_children()
        if not name.startswith("classifier")
    ]
    with torch.no_grad():
        model.eval()(images(side=side))
    for handle in handles:
        handle.remove()
    return found


def test_smoothing_stands_at_the_end_of_every_stage():
    model = nets.build("resnet_mcdo_smoothing_18", num_classes=10, width=2)
    expected = [("layer0", 32)]
    for stage, (inner, smoothed) in enumerate([(32, 33), (17, 18), (9, 10), (5, 6)], 1):
        expected += [(f"layer{stage}", inner), (f"smooth{stage}", smoothed)]
    assert list(sizes(model, 32).items()) == expected
    before = sizes(nets.build("preresnet_mcdo_smoothing_18", num_classes=10, width=2), 32)
    assert [before[f"smooth{stage}"] - before[f"layer{stage}"] for stage in (1, 2, 3, 4)] == [1, 1, 1, 0]
    after = sizes(nets.build("vgg_mcdo_smoothing_11", num_classes=10, width=2), 32)
    assert [after[f"smooth{stage}"] - after[f"layer{stage}"] for stage in range(5)] == [1] * 5
    chosen = sizes(nets.build("resnet_dnn_18", num_classes=10, width=2, stages=(0, 2, 0, 0)), 32)
    assert [chosen[f"smooth{stage}"] - chosen[f"layer{stage}"] for stage in (1, 2, 3, 4)] == [0, 2, 0, 0]


@pytest.mark.parametrize("pattern", ONE_EACH)
def test_same_weights_without_masks_give_the_deterministic_network(pattern):
    # The pre-activation bottlenecks differ in their shortcut too.
    kind, more = ("mcdo", {"dropout": 0.0}) if pattern == "preresnet_{}_50" else ("dnn", {})
    dnn = nets.build(named(pattern, kind), num_classes=10, width=4, seed=3, **more).eval()
    mcdo = nets.build(named(pattern, "mcdo"), num_classes=10, width=4, seed=5).eval()
    mcdo.load_state_dict(dnn.state_dict())
    with torch.no_grad(), Masks.off():
        assert torch.equal(dnn(images(side=32)), mcdo(images(side=32)))
    with torch.no_grad(), Masks.addressed() as masks:
        masks.address()
        expected = dnn(images(side=32))
        # Dropout of a head is for training alone: a deterministic network is deterministic whatever masks there are.
        assert masks.calls == 0
        assert not torch.equal(mcdo(images(side=32)), expected)
        blocks = {"resnet_{}_18": 8, "preresnet_{}_18": 8, "vgg_{}_11": 8, "prevgg_{}_11": 8, "alexnet_{}": 5}
        assert masks.calls == blocks.get(pattern, 16)


@pytest.mark.parametrize(
    ("name", "before", "behind", "rate"),
    [
        ("resnet_mcdo_18", "layer1.0.conv1", "layer1.0.conv2", 0.3),
        ("resnet_mcdo_50", "layer1.0.conv2", "layer1.0.conv3", 0.3),
        ("preresnet_mcdo_18", "layer1.0.conv1", "layer1.0.conv2", 0.3),
        ("preresnet_mcdo_50", "layer1.0.conv2", "layer1.0.conv3", 0.3),
        ("vgg_mcdo_13", "layer0.0.conv", "layer0.1.conv", 0.3),
        ("prevgg_mcdo_13", "layer0.0.conv", "layer0.1.bn", 0.3),
        ("alexnet_mcdo", "layer0.0.conv", "layer1.0", 0.1),
    ],
)
def test_dropout_stands_where_the_paper_says_at_its_rate(name, before, behind, rate):
    model = nets.build(name, num_classes=10, width=8).eval()
    seen = []
    for where in (before, behind):
        model.get_submodule(where).register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    with torch.no_grad():
        with Masks.off():
            model(images(side=32))
        with Masks.addressed() as masks:
            masks.address()
            model(images(side=32))
    before_off, off, before_on, on = seen
    assert torch.equal(before_off, before_on)
    keep = keep_level(rate) / 2**16
    alive = off != 0
    ratio = on[alive] / off[alive]
    assert torch.allclose(ratio[ratio != 0], torch.tensor(1 / keep))
    assert abs((ratio == 0).double().mean() - rate) < 4 * math.sqrt(rate * (1 - rate) / len(ratio))


def test_a_shortcut_of_preactivation_blocks_takes_the_activated_input():
    block = nets.build("preresnet_dnn_18", num_classes=10, width=4).eval().get_submodule("layer2.0")
    given = features(2, 4, 6, 6, dtype=torch.float32)
    with torch.no_grad():
        active = functional.relu(block.bn1(given))
        inner = block.conv2(functional.relu(block.bn2(block.conv1(active))))
        assert torch.allclose(block(given), inner + block.shortcut[0](active))


def test_dropout_rate_can_be_given():
    with torch.no_grad(), Masks.addressed() as masks:
        masks.address()
        nets.build("resnet_mcdo_18", num_classes=10, width=2, dropout=0.0).eval()(images())
        assert masks.calls == 0
        nets.build("resnet_dnn_18", num_classes=10, width=2, dropout=0.2).eval()(images())
        assert masks.calls == 8


def test_heads():
    given = features(2, 8, 5, 4)
    pooled = {
        "gap": given.mean((2, 3)),
        "global-max": given.flatten(2).amax(2),
        # The tenth largest of twenty.
        "global-median": given.flatten(2).sort(2, descending=True).values[..., 9],
        "clipped-gap": 2 * (1 / (1 + torch.exp(-given.mean((2, 3)) / 2)) - 0.5),
        "bn-relu-gap": (given / math.sqrt(1 + 1e-5)).clamp(min=0).mean((2, 3)),
    }
    for head, expected in pooled.items():
        classifier = nets.build("resnet_dnn_18", num_classes=3, width=1, head=head).double().eval().classifier
        dense = classifier[0].dense
        assert torch.allclose(classifier(given), expected @ dense.weight.T + dense.bias)
    mlp = nets.build("resnet_dnn_18", num_classes=3, width=1, head="gap-mlp").double().eval().classifier
    one = mlp[0]
    hidden = torch.relu(given.mean((2, 3)) @ one.dense1.weight.T + one.dense1.bias)
    hidden = torch.relu(hidden @ one.dense2.weight.T + one.dense2.bias)
    assert torch.allclose(mlp(given), hidden @ one.dense3.weight.T + one.dense3.bias)
    with Masks.stream(generator(0, "test")) as masks:
        mlp.train()(given)
        assert masks.calls == 2


def test_seed_decides_the_weights_and_nothing_else_is_drawn():
    before = torch.random.get_rng_state()
    one, same, other = (nets.build("resnet_dnn_18", num_classes=3, width=2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    states = [torch.cat([value.flatten() for value in model.parameters()]) for model in (one, same, other)]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


# Double backward and function transforms ------------------------------------------------------------------------------


def products(model, side):
    """Hessian-vector product, forward over reverse and reverse over reverse, of the sum of squared logits."""
    model = model.double().eval()
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    given = images(side=side, dtype=torch.float64)
    direction = {
        name: torch.randn(value.shape, generator=generator(0, "test", name), dtype=value.dtype)
        for name, value in parameters.items()
    }

    def loss(values):
        with Masks.addressed() as masks:
            masks.address()
            return functional_call(model, values, (given,)).square().sum()

    forward = jvp(grad(loss), (parameters,), (direction,))[1]
    leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    first = torch.autograd.grad(loss(leaves), list(leaves.values()), create_graph=True)
    slope = sum((g * v).sum() for g, v in zip(first, direction.values(), strict=True))
    backward = dict(zip(leaves, torch.autograd.grad(slope, list(leaves.values())), strict=True))
    batched = vmap(lambda scale: loss({name: value * scale for name, value in parameters.items()}))(
        torch.tensor([1.0, 0.5], dtype=torch.float64)
    )
    assert torch.allclose(batched[0], loss(parameters))
    return forward, backward


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet_mcdo_smoothing_18", {}),
        ("resnet_dnn_18", {"smoothing": "bn-tanh-blur(kernel=1-2-1,padding=reflect)", "head": "mlp"}),
        ("resnet_dnn_18", {"smoothing": "sigmoid-blur", "head": "global-median"}),
        ("resnet_dnn_18", {"smoothing": "softmax-blur", "head": "global-max"}),
        ("preresnet_mcdo_smoothing_18", {"head": "clipped-gap"}),
        ("vgg_mcdo_smoothing_11", {}),
        ("prevgg_mcdo_smoothing_11", {"smoothing": "relu6-blur(kernel=1-3-3-1,padding=replicate)"}),
        ("alexnet_mcdo_smoothing", {}),
    ],
)
def test_double_backward_and_transforms(name, arguments):
    model = nets.build(name, num_classes=3, width=1, **arguments)
    forward, backward = products(model, 32)
    for key, value in forward.items():
        assert torch.allclose(value, backward[key], rtol=1e-6, atol=1e-9 * float(value.abs().max()))
    assert any(value.abs().max() > 0 for value in forward.values())


# Smoothing layers -----------------------------------------------------------------------------------------------------


def test_the_papers_layer():
    given = 20 * features(2, 3, 6, 5)
    layer = factory(None)(3).double()
    bounded = torch.relu(10 * torch.tanh(given / 10))
    assert torch.allclose(layer(given), functional.avg_pool2d(bounded, 2, 1, 1))
    assert layer(given).shape == (2, 3, 7, 6)
    assert not list(layer.parameters())
    assert not layer.state_dict()


@pytest.mark.parametrize(
    ("variant", "nonlinearity"),
    [
        ("tanh", lambda x: torch.relu(10 * torch.tanh(x / 10))),
        ("tanh(t=3)", lambda x: torch.relu(3 * torch.tanh(x / 3))),
        ("relu6", lambda x: x.clamp(0, 6)),
        ("scaling", lambda x: x / 5),
        ("identity", lambda x: x),
        ("blur", lambda x: x),
        ("tanh-blur(t=2.5)", lambda x: torch.relu(2.5 * torch.tanh(x / 2.5))),
        ("relu6-blur", lambda x: x.clamp(0, 6)),
        ("sigmoid-blur", lambda x: torch.relu(40 * (torch.sigmoid(x / 10) - 0.5))),
        ("softmax-blur(t=4)", lambda x: 4 * torch.softmax(x / 4, 1)),
        ("scaling-blur", lambda x: x / 5),
        ("bn-blur", lambda x: torch.relu(x / math.sqrt(1 + 1e-5))),
        ("bn-tanh-blur", lambda x: torch.relu(10 * torch.tanh(x / math.sqrt(1 + 1e-5) / 10))),
    ],
)
def test_variants(variant, nonlinearity):
    given = 8 * features(2, 3, 4, 5)
    expected = nonlinearity(given)
    if "blur" in variant:
        expected = functional.avg_pool2d(expected, 2, 1, 1)
    assert torch.allclose(factory(variant)(3).double().eval()(given), expected)


@pytest.mark.parametrize("kernel", [(1,), (1, 1), (1, 2, 1), (1, 3, 3, 1), (1, 4, 6, 4, 1), (1, 1, 1)])
@pytest.mark.parametrize("padding", ["grow", "zero", "replicate", "reflect"])
def test_blur_is_the_convolution_it_says(kernel, padding):
    given = features(2, 3, 7, 6)
    blurred = nets.Blur(kernel, padding).double()(given).numpy()
    taps = np.array(kernel) / sum(kernel)
    mode = {"grow": "constant", "zero": "constant", "replicate": "edge", "reflect": "reflect"}[padding]
    before = len(kernel) // 2 if padding == "grow" else (len(kernel) - 1) // 2
    widths = [(0, 0), (0, 0), (before, len(kernel) // 2), (before, len(kernel) // 2)]
    expected = np.pad(given.numpy(), widths, mode=mode)
    for axis in (2, 3):
        expected = np.apply_along_axis(lambda line: np.convolve(line, taps, mode="valid"), axis, expected)
    assert blurred.shape == expected.shape
    np.testing.assert_allclose(blurred, expected, atol=1e-12)
    if padding != "grow":
        assert blurred.shape == given.shape


def test_blur_is_the_low_pass_it_says():
    # White noise loses all but the sum of k squared of its variance; a wave is multiplied by |cos(w / 2)| per axis.
    noise = features(1, 1, 600, 600)
    for kernel in ((1, 1), (1, 2, 1)):
        share = sum((tap / sum(kernel)) ** 2 for tap in kernel) ** 2
        inner = nets.Blur(kernel, "zero").double()(noise)[..., 2:-2, 2:-2]
        assert abs(inner.var() / noise.var() - share) < 0.02 * share
    for frequency in (0.0, 0.5, 2.0, math.pi):
        wave = torch.exp(1j * frequency * torch.arange(40, dtype=torch.float64))
        blur = nets.Blur().double()
        parts = [blur(part.expand(40, 40)[None, None])[0, 0, 5, 5:-5] for part in (wave.real, wave.imag)]
        amplitude = torch.complex(*parts).abs()
        assert torch.allclose(amplitude, torch.tensor(abs(math.cos(frequency / 2)), dtype=torch.float64))


def test_kernels_follow_the_model_and_take_no_weight_decay():
    model = nets.build("resnet_dnn_18", num_classes=3, width=2, smoothing="blur(kernel=1-2-1)")
    assert model.smooth1[0][0].kernel.dtype == torch.float32
    assert model.double().smooth1[0][0].kernel.dtype == torch.float64
    assert not list(model.smooth1.parameters())


def test_a_users_own_layer(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "from torch import nn\n"
        "class Plain(nn.Identity):\n    pass\n"
        "class Wide(nn.Conv2d):\n"
        "    def __init__(self, channels): super().__init__(channels, channels, 1)\n"
        "def number(): return 3\n"
    )
    model = nets.build("resnet_dnn_18", num_classes=3, width=2, smoothing=f"{file}:Wide")
    assert [getattr(model, f"smooth{stage}")[0].in_channels for stage in (1, 2, 3, 4)] == [2, 4, 8, 16]
    assert type(nets.build("resnet_dnn_18", num_classes=3, smoothing=f"{file}:Plain").smooth1[0]).__name__ == "Plain"
    assert isinstance(
        nets.build("vgg_dnn_11", num_classes=3, width=2, smoothing=nn.BatchNorm2d).smooth4[0].weight, nn.Parameter
    )
    with pytest.raises(LandscapeError, match="makes a int"):
        nets.build("resnet_dnn_18", num_classes=3, width=2, smoothing=f"{file}:number")


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet_mcdo_smooth_18"}, "resnet_mcdo_smoothing_18"),
        ({"name": "resnet_dnn_19"}, "resnet_dnn_1"),
        ({"name": "alexnet_dnn_18"}, "alexnet_dnn"),
        ({"name": ""}, "e.g. resnet_dnn_18"),
        ({"head": "gab"}, "gap"),
        ({"smoothing": "tanhblur"}, "tanh-blur"),
        ({"smoothing": "tanh-blur(k=3)"}, "takes no k"),
        ({"smoothing": "tanh-blur(t=x)"}, "t must be a number"),
        ({"smoothing": "tanh-blur(t)"}, "name=value"),
        ({"smoothing": "tanh-blur(t=0)"}, "t=0"),
        ({"smoothing": "blur(kernel=1--1)"}, "kernel"),
        ({"smoothing": "blur(padding=mirror)"}, "mirror"),
        ({"smoothing": "nowhere:Layer"}, "nowhere"),
        ({"width": 0}, "width 0"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"dropout": 1.0}, "dropout rate 1.0"),
        ({"stages": (1, 1)}, "4 stages"),
        ({"stages": (1, 1, 1, -1)}, "from 0"),
    ],
)
def test_bad_arguments_say_what_and_what_to_do(arguments, message):
    with pytest.raises(LandscapeError) as error:
        nets.build(**{"name": "resnet_mcdo_18", "num_classes": 3, "width": 2} | arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_every_smoothing_variant_builds_into_a_network():
    for variant, head in itertools.product(nets.VARIANTS, ["gap"]):
        model = nets.build("resnet_dnn_18", num_classes=3, width=2, smoothing=variant, head=head).eval()
        with torch.no_grad():
            assert model(images()).isfinite().all()


# The vision transformer -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [32, 16])
def test_the_vision_transformer_is_that_of_transformers(side):
    transformers = pytest.importorskip("transformers")
    ours = nets.build("vit_mcdo_6", num_classes=7, width=32).eval()
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=6, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=4
    )
    theirs = transformers.ViTModel(config, add_pooling_layer=False).eval()
    order = [block for stage in ours.stages for block in stage]
    for own, other in ((ours.embeddings, theirs.embeddings), (ours.norm, theirs.layernorm)):
        other.load_state_dict(own.state_dict())
    for own, other in zip(order, theirs.layers, strict=True):
        other.load_state_dict(own.state_dict())
    inputs = images(side=side).float()
    with torch.no_grad():
        expected = ours.classifier(theirs(inputs, interpolate_pos_encoding=side != 32).last_hidden_state[:, 0])
        torch.testing.assert_close(ours(inputs), expected)


def test_the_grid_of_tokens_is_smoothed_and_the_class_token_is_not():
    tokens = features(2, 1 + 9, 3)
    found = vision_transformer.SmoothedTokens(nets.Blur((1, 2, 1), "zero").double())(tokens)
    torch.testing.assert_close(found[:, 0], tokens[:, 0])
    grid = torch.nn.functional.pad(tokens[:, 1:].reshape(2, 3, 3, 3), (0, 0, 1, 1, 1, 1))
    weight = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64) / 4
    middle = sum(weight[i] * weight[j] * grid[:, 1 + i, 1 + j] for i in range(3) for j in range(3))
    torch.testing.assert_close(found[:, 1 + 4], middle)


def test_a_smoothed_vision_transformer_has_the_weights_of_the_plain_one():
    pytest.importorskip("transformers")
    plain, smooth = (nets.build(f"vit_dnn{kind}_6", num_classes=7, width=16) for kind in ("", "_smoothing"))
    smoothed = [
        name for name, module in smooth.named_modules() if isinstance(module, vision_transformer.SmoothedTokens)
    ]
    assert smoothed == ["stages.0.2", "stages.1.2"]
    smooth.load_state_dict(plain.state_dict())
    inputs = images(side=32).float()
    with torch.no_grad():
        assert not torch.allclose(plain.eval()(inputs), smooth.eval()(inputs))
        # The placebo of an audit changes nothing.
        same = nets.build("vit_dnn_6", num_classes=7, width=16, smoothing="identity").eval()
        same.load_state_dict(plain.state_dict())
        torch.testing.assert_close(same(inputs), plain(inputs))
    with pytest.raises(LandscapeError, match="class-token"):
        nets.build("vit_dnn_6", num_classes=7, head="gap")
