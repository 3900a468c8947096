"""Model and data uncertainty of feature maps: against kept maps and closed forms, across batches and crashes."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn

from landscape import checkpoint, nets
from landscape.compute.masks import Masks
from landscape.compute.randomness import numpy_generator
from landscape.data import Images
from landscape.errors import LandscapeError
from landscape.feature_maps import cli, maps, measure, picture, uncertainty
from landscape.look import comparison, depths, reuse
from landscape.look.forward import Passes
from landscape.metrics.confidence import Z
from landscape.store.journal import Journal
from landscape.store.protocol import Protocol

FRESH = Protocol(dropout="fresh", split="test")


def data(count=24, side=8, channels=3, *, same=False, seed=0):
    pixels = torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed))
    if same:
        pixels = pixels[:1].expand(count, -1, -1, -1).contiguous()
    labels = torch.arange(count) % 4
    return Images(images=pixels, labels=labels, classes=4, name="random", split="test")


def trained(name="resnet_mcdo_smoothing_18", width=4):
    """A network whose batch norms have something to fold."""
    model = nets.build(name, num_classes=4, width=width).eval()
    source = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=source)
            module.running_var.uniform_(0.5, 1.5, generator=source)
            module.bias.data.normal_(0, 0.3, generator=source)
    return model


def kept_maps(model, images, passes):
    """Every map of every pass, the plain way: (T, N, C, H, W) for each point."""
    found = depths.find(model, images.batch(0, 1))
    everything = [[] for _ in found.points]
    with (
        depths.watch(model, found, lambda place, features: everything[place].append(features.clone())),
        torch.no_grad(),
    ):
        for sample in range(passes):
            with Masks.addressed(seed=0) as masks:
                masks.address(first_example=0, sample=sample)
                model(images.batch(0, len(images)))
    return [torch.stack(one).double() for one in everything]


def test_against_kept_maps():
    model, images = trained(), data(20)
    before = copy.deepcopy(model.state_dict())
    result = measure(model, images, passes=6, batch=7)
    whole = kept_maps(model, images, 6)
    expected = {
        "model_std": [x.std(0).mean() for x in whole],
        "model_variance": [x.var(0).mean() for x in whole],
        "data_std": [x.var(dim=(3, 4), correction=0).sqrt().mean() for x in whole],
        "data_variance": [x.var(dim=(3, 4), correction=0).mean() for x in whole],
        "power": [x.square().mean() for x in whole],
        "relative_model_std": [x.std(0).mean() / x.square().mean().sqrt() for x in whole],
        "variance_between_images": [(x.mean(0).var(0) - x.var(0).mean(0) / 6).mean() for x in whole],
    }
    for name, value in expected.items():
        np.testing.assert_allclose(result[name].values, np.array(value), rtol=2e-4, atol=1e-6, err_msg=name)
    per_image = torch.stack([x.std(0).mean((1, 2, 3)) for x in whole])
    np.testing.assert_allclose(result["model_std_of_image"].values, per_image, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(result["model_std_stderr"].values, per_image.std(1) / 20**0.5, rtol=2e-3, atol=1e-7)
    assert float(result["model_std"][0]) == 0
    assert float(result["model_std"][1]) > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or "forward" in vars(module) for module in model.modules())


def test_batches_change_nothing_but_rounding():
    model, images = trained(), data(20)
    one, other = measure(model, images, passes=4, batch=3), measure(model, images, passes=4, batch=20)
    for name in one.data_vars:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-3, atol=1e-5, err_msg=str(name))


class DropoutThenLinear(nn.Module):
    """Bare functional dropout right before a 1x1 convolution."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate
        self.features = nn.Sequential(nn.Identity(), nn.Conv2d(3, 5, 1))
        self.features.requires_grad_(False)
        nn.init.normal_(self.features[1].weight, generator=torch.Generator().manual_seed(2))

    def forward(self, images):
        return self.features(nn.functional.dropout(images, self.rate, training=False)).mean((2, 3))


def test_dropout_before_a_linear_layer_has_its_closed_form():
    model, images = DropoutThenLinear(0.3), data(192, same=True)
    keep = round(0.7 * 2**16) / 2**16
    weights, pixels = model.features[1].weight.double().squeeze(), images.images[0].double()
    exact = float((weights.square() @ pixels.square().flatten(1)).mean() * (1 - keep) / keep)
    errors = []
    for seed in range(20):
        result = measure(model, images, protocol=FRESH.replace(mask_seed=seed), passes=5, blocks="features.1")
        assert result.attrs["dropout_calls"] == 1
        errors.append((float(result["model_variance"][0]) - exact) / float(result["model_variance_stderr"][0]))
        # All images are the same: nothing is left between them.
        assert abs(result["variance_between_images"][0]) < 5 * result["variance_between_images_stderr"][0]
    assert max(map(abs, errors)) < 3
    assert 0.5 < np.std(errors) < 1.5


class NoiseThenBlur(nn.Module):
    """White noise of known variance, blurred, its border cut off."""

    def __init__(self, kernel):
        super().__init__()
        self.noise = nn.Dropout(0.5)
        self.blur = nets.Blur(kernel, "zero")
        self.inside = nn.ZeroPad2d(-4)
        self.head = nn.Linear(2, 4)

    def forward(self, images):
        return self.head(self.inside(self.blur(self.noise(images))).mean((2, 3)))


@pytest.mark.parametrize("kernel", [(1, 1), (1, 2, 1), (1, 4, 6, 4, 1)])
def test_a_blur_cuts_the_variance_of_white_noise_by_the_sum_of_its_squares(kernel):
    constant = Images(
        images=torch.ones(16, 2, 24, 24),
        labels=torch.zeros(16, dtype=torch.int64),
        classes=4,
        name="ones",
        split="test",
    )
    result = measure(NoiseThenBlur(kernel), constant, passes=8, blocks="noise,inside")
    result = result.sel(point=["noise", "inside"])
    noise, blurred = result["model_variance"].values
    relative = np.hypot(*(result["model_variance_stderr"].values / result["model_variance"].values))
    expected = (np.square(kernel).sum() / np.sum(kernel) ** 2) ** 2
    assert noise == pytest.approx(1, abs=4 * float(result["model_variance_stderr"][0]))
    assert abs(blurred / noise / expected - 1) < 3 * relative
    assert relative < 0.02


def test_networks_without_dropout_have_no_model_uncertainty():
    result = measure(trained("resnet_dnn_18"), data(4), passes=5)
    assert result.attrs["dropout_calls"] == 0
    assert result.attrs["passes"] == 1
    assert not result["model_std"].values.any()
    assert (result["data_std"].values > 0).all()


def test_refusals():
    model, images = trained("resnet_mcdo_18"), data(4)
    for protocol, text in [(Protocol(), "fresh"), (FRESH.replace(batch_norm="batch"), "running")]:
        with pytest.raises(LandscapeError, match=text):
            measure(model, images, protocol=protocol)
    with pytest.raises(LandscapeError, match="passes 2"):
        measure(model, images, passes=1)
    with pytest.raises(LandscapeError, match="cannot take images"):
        measure(model, data(4, channels=1))
    with pytest.raises(LandscapeError, match="no image 9"):
        maps.measure(model, images, 9)
    with pytest.raises(LandscapeError, match="fresh masks, not 'off'"):
        maps.measure(model, images, 0, protocol=FRESH.replace(dropout="off"))


def test_maps_of_zeros_and_single_images_have_no_relative_values_nor_errors():
    model = trained("resnet_mcdo_18")
    for parameter in model.parameters():
        parameter.detach().zero_()
    result = measure(model, data(4), protocol=FRESH.replace(images=1), passes=2)
    assert result["relative_model_std"].isnull().all()
    assert result["variance_between_images_stderr"].isnull().all()


class Awkward(nn.Module):
    """A sum in place before the first dropout, one activation shared by both sides of it."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.act = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()
        self.dropout, self.last = nn.Dropout(0.5), nn.Conv2d(3, 4, 3, padding=1)
        self.calls = 0
        self.first.register_forward_hook(lambda *_: setattr(self, "calls", self.calls + 1))

    def forward(self, images):
        features = self.act(self.first(images))
        inner = self.norm(features)
        inner += images
        return self.act(self.last(self.dropout(inner))).mean((2, 3))


def test_work_before_the_first_dropout_is_done_once():
    for model in (Awkward(), trained("resnet_mcdo_18"), trained("vgg_mcdo_11", 8)):
        model.eval()
        side = 8 if not isinstance(model, nn.Module) or not hasattr(model, "layer4") else 32
        batches = [data(3, side, seed=seed).images for seed in (0, 1)]
        plain, shared = [], []
        with torch.no_grad(), Masks.addressed(seed=0) as masks:
            for batch in batches:
                for sample in range(3):
                    masks.address(first_example=0, sample=sample)
                    plain.append(model(batch))
            with reuse.before_dropout(model, masks) as kept:
                for batch in batches:
                    kept.restart()
                    for sample in range(3):
                        masks.address(first_example=0, sample=sample)
                        shared.append(model(batch))
        for one, other in zip(plain, shared, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
        assert not any("forward" in vars(module) for module in model.modules())
    model = Awkward().eval()
    with Masks.addressed(seed=0) as masks, reuse.before_dropout(model, masks) as kept:
        for sample in range(5):
            masks.address(first_example=0, sample=sample)
            model(batches[0][:, :, :8, :8])
        # The convolution's output is changed by nobody: it is computed once, and its hooks still see every pass.
        assert kept.covers("first")
        assert not kept.covers("norm")
        assert not kept.covers("act")


def test_killed_work_goes_on_from_the_journal_to_the_same_bits(tmp_path, monkeypatch):
    model, images = trained("resnet_mcdo_18"), data(20)
    whole = measure(model, images, passes=3, batch=4)
    original, left = Passes.stochastic, [3]

    def dies(self, *arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(Passes, "stochastic", dies)
    with pytest.raises(KeyboardInterrupt), Journal(tmp_path / "journal", {}) as journal:
        measure(model, images, passes=3, batch=4, journal=journal)
    left[0] = 2
    with Journal(tmp_path / "journal", {}) as journal:
        assert len(journal) == 3
        resumed = measure(model, images, passes=3, batch=4, journal=journal)
    assert resumed.equals(whole)


def test_a_vision_transformer_with_dropout():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=4,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
    )
    model = transformers.ViTForImageClassification(config).eval()
    result = measure(model, data(6, 16), passes=4)
    assert result.attrs["dropout_calls"] >= 5
    assert (result["model_std"].values[-2:] > 0).all()
    assert np.isfinite(result["relative_data_std"].values).all()


def test_maps_of_one_image_are_those_of_the_network():
    model, images = trained("resnet_mcdo_18"), data(5)
    result = maps.measure(model, images, 3, passes=4)
    chosen = images.select(torch.tensor([3]))
    whole = kept_maps(model, chosen, 4)
    place = [point.name for point in depths.find(model, images.batch(0, 1)).points].index(
        str(result["point"].values[1])
    )
    channel = int(result["channel"][1])
    np.testing.assert_allclose(result["mean_1"], whole[place].mean(0)[0, channel], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(result["std_1"], whole[place].std(0)[0, channel], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(result["pass_1"][2], whole[place][2, 0, channel], rtol=1e-3, atol=1e-5)


def test_paired_comparison():
    images = data(20, 16)
    plain, smooth = (
        measure(trained(name), images, passes=3) for name in ("resnet_mcdo_18", "resnet_mcdo_smoothing_18")
    )
    results, stages = (plain, smooth), (1, 2, 3, 4)
    behind = [f"layer{stage}.1" for stage in stages], [f"smooth{stage}" for stage in stages]
    for before, names in ((False, behind), (True, (behind[0], behind[0]))):
        effect = comparison.paired(plain, smooth, "model_std_of_image", before_smoothing=before)
        assert list(effect["block"].values) == behind[0]
        means = [result["model_std"].sel(point=own).values for result, own in zip(results, names, strict=True)]
        np.testing.assert_allclose(effect["ratio"], means[1] / means[0])
        np.testing.assert_allclose(effect["difference"], means[1] - means[0])
        low, high = effect["ratio_interval"].values.T
        assert ((low <= effect["ratio"]) & (effect["ratio"] <= high)).all()
        # The weights are the same: nothing differs before the first smoothing layer.
        assert bool(effect["ratio"][0] == 1) == before
    with pytest.raises(LandscapeError, match="different images"):
        comparison.paired(plain, smooth.isel(image=slice(3)), "model_std_of_image")
    with pytest.raises(LandscapeError, match="different images"):
        comparison.paired(
            plain, measure(trained("resnet_mcdo_18"), data(20, 16, seed=1), passes=3), "data_std_of_image"
        )
    off = measure(trained("resnet_dnn_18"), images, passes=3)
    assert comparison.paired(off, plain, "model_std_of_image")["ratio"].isnull().all()
    assert comparison.ordered_union([["a", "b", "d"], ["a", "c", "d", "e"]]) == ["a", "c", "b", "d", "e"]


@pytest.fixture
def checkpoints(tmp_path):
    """Two untrained networks on digits."""
    paths = []
    for name in ("resnet_mcdo_18", "resnet_mcdo_smoothing_18"):
        arguments = {"name": name, "num_classes": 10, "width": 4}
        recipe = {"recipe": name, "model": arguments, "data": {"name": "digits"}, "training": {}, "seed": 0}
        path = tmp_path / f"{name}.safetensors"
        checkpoint.save(path, nets.build(**arguments).state_dict(), recipe=recipe)
        paths.append(str(path))
    return paths


def test_command(checkpoints, tmp_path, capsys):
    common = ["--images", "12", "--passes", "3", "--quiet", "--device", "cpu", "--out", str(tmp_path / "out.nc")]
    assert cli.main([*checkpoints, *common, "--json", "--plot", str(tmp_path / "curves.png")]) == 0
    facts = json.loads(capsys.readouterr().out)["results"]
    assert facts[0]["protocol"]["split"] == "test"
    assert facts[0]["images"] == 12
    assert len(facts[1]["model_std"]) == 13
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    assert not list(tmp_path.glob(".*journal*"))
    common.remove("--quiet")
    assert cli.main([*checkpoints, *common]) == 0
    printed = capsys.readouterr().out
    assert "smooth4" in printed
    before, behind = (
        printed.index(f"model std [2] / [1] {side}") for side in ("before smoothing layers", "behind them")
    )
    assert before < behind
    assert "layer4.1 " in printed[before:behind]
    assert cli.main([*checkpoints, *common, "--image", "2", "--plot", str(tmp_path / "maps.png")]) == 0
    assert "layer4.1" in capsys.readouterr().out
    assert cli.main([*checkpoints, *common, "--plan"]) == 0
    assert "12 images x 3 passes" in capsys.readouterr().out
    with pytest.raises(LandscapeError, match="fresh"):
        cli.main([checkpoints[0], *common, "--dropout", "off"])


def test_pictures_show_networks_of_unlike_depth():
    images = data(3)
    results = [measure(trained(name), images, passes=2) for name in ("resnet_dnn_18", "resnet_mcdo_smoothing_18")]
    made = picture.draw(results)
    assert len(made.axes) == len(picture.PANELS)


def test_error_of_the_variance_between_images_covers() -> None:
    source = numpy_generator(0, "between images")
    count = 40
    members = uncertainty.group(np.arange(count), count)
    held = []
    for _ in range(200):
        maps = source.standard_normal((count, 20))
        piece = {f"sum of 0 in {member}": maps[members == member].sum(0) for member in range(members[-1] + 1)}
        squares = np.square(maps).mean(1)[None]
        of_image = {"power": squares, "square_of_mean": squares, "model_variance": np.zeros((1, count))}
        value, stderr = uncertainty._between_images([piece], of_image, 1)
        held.append(abs(value[0] - 1) <= Z * stderr[0])
    # 200 samples: a true 95 % is seen in 90.4 to 99.6 % of them (3 sigma).
    assert 0.904 <= np.mean(held) <= 0.996
