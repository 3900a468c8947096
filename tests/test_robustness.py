"""Corruptions, mean corruption errors, consistency, attacks."""

import argparse
import colorsys
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray
from matplotlib.figure import Figure
from PIL import Image
from test_predictions import CLASSES, FRESH, net, pictures
from torch import nn

from landscape import checkpoint, metrics, nets
from landscape.compute.randomness import generator, numpy_generator
from landscape.data import Images
from landscape.errors import LandscapeError
from landscape.metrics.definitions import bin_of
from landscape.nets.dropout import MCDropout
from landscape.objective.preparation import examples
from landscape.predictions import Predictor
from landscape.robustness import (
    COMPUTED,
    SEVERITIES,
    CifarC,
    CifarP,
    Computed,
    adversarial,
    cells,
    cli,
    consistency as consistency_of,
    corrupted,
    picture,
)
from landscape.robustness.adversarial import Attack, attacked, input_gradient
from landscape.robustness.corrupted import difference, read_baseline, relative_errors
from landscape.store.journal import Journal
from landscape.store.protocol import Protocol

PAPER = Path(__file__).parents[2] / "shared" / "paper"


def flat(level: int, count: int = 200) -> Images:
    """Images of one grey level."""
    return Images(
        images=torch.full((count, 3, 32, 32), level, dtype=torch.uint8),
        labels=torch.zeros(count, dtype=torch.int64),
        classes=CLASSES,
        name="flat",
        split="test",
    )


def pixels(images: Images) -> np.ndarray:
    return images.images.permute(0, 2, 3, 1).numpy().astype(np.float64)


# Corruptions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMPUTED)
def test_every_severity_is_worse_than_the_one_before(name: str) -> None:
    data = pictures(64)
    source = Computed(data)
    damage = [float(np.abs(pixels(source.load(name, severity)) - pixels(data)).mean()) for severity in SEVERITIES]
    # Saturation is taken away at severities 1 and 2 and added at 3 to 5.
    order = damage if name != "saturate" else damage[2:]
    assert order == sorted(order)
    assert damage[0] > 0
    assert torch.equal(source.load(name, 2).images, Computed(data).load(name, 2).images)


def test_noise_has_the_published_strength() -> None:
    """On mid grey nothing is clipped: standard deviation and share are the published numbers."""
    source = Computed(flat(128))
    level = 128 / 255
    for name, stds in (
        ("gaussian_noise", (0.04, 0.06, 0.08, 0.09, 0.10)),
        ("speckle_noise", tuple(level * strength for strength in (0.06, 0.1, 0.12, 0.16, 0.2))),
        ("shot_noise", tuple((level / photons) ** 0.5 for photons in (500, 250, 100, 75, 50))),
    ):
        for severity, std in zip(SEVERITIES, stds, strict=True):
            noisy = pixels(source.load(name, severity)) / 255
            assert noisy.std() == pytest.approx(std, rel=0.02), (name, severity)
            assert noisy.mean() == pytest.approx(level, abs=0.004), (name, severity)
    for severity, share in zip(SEVERITIES, (0.01, 0.02, 0.03, 0.05, 0.07), strict=True):
        noisy = pixels(source.load("impulse_noise", severity))
        assert (noisy == 0).mean() == pytest.approx(share / 2, rel=0.05)
        assert (noisy == 255).mean() == pytest.approx(share / 2, rel=0.05)


def test_noise_differs_between_seeds_and_keeps_its_images() -> None:
    few, many = flat(128, 3), flat(128, 9)
    first = Computed(many, seed=0).load("gaussian_noise", 1).images
    assert torch.equal(first[:3], Computed(few, seed=0).load("gaussian_noise", 1).images)
    assert not torch.equal(first, Computed(many, seed=1).load("gaussian_noise", 1).images)


def test_blurs_spread_a_point_as_their_kernels_say() -> None:
    data = flat(0, 1)
    data.images[0, :, 16, 16] = 255
    source = Computed(data)
    # Radius 1.5 covers a 3x3 square; the soft edge of 0.1 pixels moves nothing.
    square = pixels(source.load("defocus_blur", 5))[0, ..., 0]
    assert (square[15:18, 15:18] == 255 // 9).all()
    assert square.sum() == 9 * (255 // 9)
    # Radius 0.5 is the point alone: the edge's Gaussian of standard deviation 0.6 on 3x3.
    weight = np.exp(-1 / (2 * 0.6**2))
    kernel = np.array([weight, 1, weight]) / (1 + 2 * weight)
    np.testing.assert_array_equal(
        pixels(source.load("defocus_blur", 3))[0, 15:18, 15:18, 0], np.floor(255 * kernel[:, None] * kernel)
    )
    gaussian = pixels(source.load("gaussian_blur", 5))[0, ..., 0]
    assert gaussian[16, 17] / gaussian[16, 16] == pytest.approx(np.exp(-1 / 2), abs=0.03)
    for name in ("defocus_blur", "gaussian_blur"):
        assert (pixels(Computed(flat(77, 2)).load(name, 4)) >= 76).all()


def test_colors_change_as_colorsys_says() -> None:
    data = pictures(2)
    original, source = pixels(data) / 255, Computed(data)
    for name, change in (
        ("brightness", lambda h, s, v: (h, s, min(v + 0.15, 1))),
        ("saturate", lambda h, s, v: (h, min(s * 1.5, 1), v)),
    ):
        expected = np.array([colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*p))) for p in original.reshape(-1, 3)])
        found = pixels(source.load(name, 3)).reshape(-1, 3)
        assert np.abs(found - 255 * expected).max() <= 1
    means = original.mean((1, 2), keepdims=True)
    contrast = pixels(source.load("contrast", 5))
    assert np.abs(contrast - 255 * ((original - means) * 0.15 + means)).max() <= 1


def test_pictures_go_through_pillow_unchanged() -> None:
    data = pictures(3)
    first = Image.fromarray(data.images[1].permute(1, 2, 0).numpy())
    file = io.BytesIO()
    first.save(file, "JPEG", quality=50)
    source = Computed(data)
    np.testing.assert_array_equal(pixels(source.load("jpeg_compression", 4))[1], np.asarray(Image.open(file)))
    box = Image.Resampling.BOX
    expected = np.asarray(first.resize((int(8 * 0.65),) * 2, box).resize((8, 8), box))
    np.testing.assert_array_equal(pixels(source.load("pixelate", 5))[1], expected)


def test_grey_images_have_no_saturation() -> None:
    data = flat(100, 2)
    grey = Images(images=data.images[:, :1], labels=data.labels, classes=CLASSES, name="grey", split="test")
    source = Computed(grey)
    assert "saturate" not in source.names
    for name in source.names:
        assert source.load(name, 1).images.shape == (2, 1, 32, 32)
    with pytest.raises(LandscapeError, match="uint8"):
        Computed(Images(images=torch.rand(2, 3, 8, 8), labels=data.labels, classes=CLASSES, name="f", split="test"))


# Files ----------------------------------------------------------------------------------------------------------------


def write_cifar_c(folder: Path, like: Images) -> np.ndarray:
    """Two corruptions whose every pixel says severity and image."""
    count = len(like)
    values = np.arange(5 * count, dtype=np.uint8)
    stack = np.broadcast_to(values[:, None, None, None], (5 * count, 8, 8, 3)).copy()
    np.save(folder / "fog.npy", stack)
    np.save(folder / "snow.npy", 255 - stack)
    np.save(folder / "labels.npy", np.tile(like.labels.numpy(), 5).astype(np.uint8))
    return stack


def test_cifar_c_is_read_severity_by_severity(tmp_path: Path) -> None:
    like = pictures(10)
    stack = write_cifar_c(tmp_path, like)
    source = CifarC(tmp_path, like)
    assert source.names == ("snow", "fog")
    found = source.load("fog", 3)
    np.testing.assert_array_equal(pixels(found), stack[20:30])
    assert torch.equal(found.labels, like.labels)
    assert (found.mean, found.std) == (like.mean, like.std)
    some = CifarC(tmp_path, like, protocol=Protocol(split="test", images=4)).load("fog", 3)
    np.testing.assert_array_equal(some.labels, like.subset(4, seed=0).labels)


def test_cifar_c_refuses_what_does_not_fit(tmp_path: Path) -> None:
    like = pictures(10)
    with pytest.raises(LandscapeError, match="holds no corruptions"):
        CifarC(tmp_path, like)
    write_cifar_c(tmp_path, like)
    with pytest.raises(LandscapeError, match=r"labels .* are not five times"):
        CifarC(tmp_path, pictures(10, seed=1))
    (tmp_path / "snow.npy").write_bytes((tmp_path / "snow.npy").read_bytes()[:200])
    with pytest.raises(LandscapeError, match="not a whole"):
        CifarC(tmp_path, like).load("snow", 1)
    np.save(tmp_path / "fog.npy", np.zeros((5, 8, 8, 3), dtype=np.float32))
    with pytest.raises(LandscapeError, match="not uint8"):
        CifarC(tmp_path, like).load("fog", 1)


def test_cifar_c_is_known_by_all_of_its_content(tmp_path: Path) -> None:
    like = pictures(10)
    write_cifar_c(tmp_path, like)
    before = CifarC(tmp_path, like).identity()
    assert CifarC(tmp_path, like).identity() == before
    # Behind the first MiB: as many images as the published files have would be read to here and no further.
    large = np.zeros((17_000, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "fog.npy", large)
    zeros = CifarC(tmp_path, like).identity()
    large[-1, -1, -1, -1] = 1
    np.save(tmp_path / "fog.npy", large)
    assert (tmp_path / "fog.npy").stat().st_size > 2**21
    assert len({before, zeros, CifarC(tmp_path, like).identity()}) == 3


def test_headers_of_cifar_c_files_run_nothing_and_take_no_memory(tmp_path: Path) -> None:
    like = pictures(10)
    write_cifar_c(tmp_path, like)
    for array in (np.array([{}], dtype=object), np.array(["a"]), np.zeros(50)):
        np.save(tmp_path / "labels.npy", array, allow_pickle=True)
        with pytest.raises(LandscapeError, match=r"labels\.npy"):
            CifarC(tmp_path, like)
    (tmp_path / "labels.npy").write_bytes(b"\x93NUMPY\x01\x00" + b"\xff\xff" + b"(" * 70_000)
    with pytest.raises(LandscapeError, match="not a whole"):
        CifarC(tmp_path, like)


# Mean corruption errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("severities", [(), (0,), (6,)])
def test_severities_are_one_to_five(severities: tuple[int, ...]) -> None:
    with pytest.raises(LandscapeError, match="severities are 1, 2, 3, 4, 5, not"):
        corrupted.measure(linear(), Computed(pictures(4)), severities=severities, protocol=FRESH)


def test_metrics_under_corruption_are_those_of_the_average(tmp_path: Path) -> None:
    model, data = net(), pictures(48)
    chosen = {"corruptions": ("contrast", "shot_noise"), "severities": (2, 5), "protocol": FRESH, "passes": 3}
    with Journal(tmp_path / "journal", {}) as journal:
        found = corrupted.measure(model, Computed(data), **chosen, journal=journal)
        assert len(journal) == 4
        xarray.testing.assert_identical(found, corrupted.measure(model, Computed(data), **chosen, journal=journal))
    images = Computed(data).load("shot_noise", 5)
    average = Predictor(model, data, protocol=FRESH).average(images, 0, 48, range(3))
    for name, (value, stderr) in metrics.MetricSet.of(average, data.labels).result().items():
        cell = found.sel(severity=5, corruption="shot_noise")
        np.testing.assert_allclose([cell[name], cell[f"{name}_stderr"]], [value, stderr], rtol=1e-9, err_msg=name)
    assert found.attrs["computed"] == 1


def table(*, images: int = 300, skill: float = 1.0, seed: int = 0, name: str = "net") -> xarray.Dataset:
    """Made-up results of two standard corruptions at two severities."""
    source = generator(0, "table")
    labels = torch.randint(CLASSES, (images,), generator=source)
    clean = torch.randn(2, 2, images, CLASSES, generator=source, dtype=torch.float64)
    clean += 0.5 * torch.randn(clean.shape, generator=generator(seed, "table"), dtype=torch.float64)
    clean[..., torch.arange(images), labels] += skill
    found = [cells.predicted(one.log_softmax(-1), labels) for one in clean.flatten(0, 1)]
    made = cells.dataset(found, labels, CLASSES, ("severity", "corruption"), (2, 2)).assign_coords(
        severity=[1, 2], corruption=["fog", "snow"]
    )
    made.attrs |= {"images_sha256": "one", "name": name}
    return made


def test_mean_corruption_error_by_hand() -> None:
    ours, base = table(skill=2.0), table(skill=1.0)
    found = relative_errors(ours, base, replicates=50)
    error, base_error = 1 - ours["accuracy"].values, 1 - base["accuracy"].values
    expected = np.mean([error[:, c].sum() / base_error[:, c].sum() for c in (0, 1)])
    assert float(found["value"].sel(measure="mCE")) == pytest.approx(expected)
    assert float(found["value"].sel(measure="mCNLL")) == pytest.approx(
        float((ours["nll"].sum("severity") / base["nll"].sum("severity")).mean())
    )
    assert float(found["low"].sel(measure="mCE")) < expected < float(found["high"].sel(measure="mCE"))


def test_a_network_against_itself_is_one() -> None:
    ours = table()
    np.testing.assert_allclose(relative_errors(ours, ours, replicates=10)["value"], 1)


def test_mean_corruption_errors_come_with_their_standard_error() -> None:
    """The bootstrap's standard error against the spread over many made-up test sets."""
    base = table(images=5000, skill=1.0)
    rng = np.random.default_rng(0)
    whole = table(images=5000, skill=1.5)
    values = []
    for _ in range(200):
        rows = rng.choice(5000, 250)
        sample = whole.isel(image=rows)
        errors = 1 - sample["correct_of_image"].mean("image")
        values.append(float((errors.sum("severity") / (1 - base["accuracy"]).sum("severity")).mean()))
    part = whole.isel(image=np.arange(250))
    part["accuracy"] = part["correct_of_image"].mean("image")
    found = relative_errors(part, base, replicates=400)
    assert float(found["stderr"].sel(measure="mCE")) == pytest.approx(np.std(values), rel=0.2)


def test_a_corruption_without_a_wrong_prediction_leaves_the_error_without_interval() -> None:
    base, hard, easy = table(skill=1.0), table(skill=1.0), table(skill=1.0)
    easy["accuracy"].loc[{"corruption": "fog"}] = 1.0
    easy["correct_of_image"].loc[{"corruption": "fog"}] = 1.0
    certain, uncertain = (relative_errors(one, base, replicates=50) for one in (hard, easy))
    for measure in ("mCE", "mCNLL"):
        assert np.isfinite(certain["high"].sel(measure=measure))
        assert np.isnan(uncertain["high"].sel(measure=measure))
        assert np.isnan(difference(certain, uncertain)["low"].sel(measure=measure))
    assert np.isfinite(uncertain["high"].sel(measure="mCECE"))


def test_relative_to_a_baseline_without_errors_there_is_no_error() -> None:
    ours, base = table(skill=1.0), table(skill=2.0)
    base["accuracy"].loc[{"corruption": "fog"}] = 1.0
    found = relative_errors(ours, base, replicates=50)
    assert np.isnan(found["ratio"].sel(measure="mCE").values).tolist() == [True, False]
    for name in ("value", "stderr", "low", "high"):
        assert np.isfinite(found[name].values).tolist() == [False, True, True], name


def test_the_interval_of_calibration_is_of_the_binning_measured() -> None:
    """Confidences that round to 1 have no gap in the authors' bins above the last: most of the error is gone."""
    data = pictures(40)
    model = linear()
    with torch.no_grad():
        model[1].weight.mul_(1e4)
    found = corrupted.measure(
        model, Computed(data), corruptions=["contrast"], severities=[1, 2, 1], protocol=FRESH, binning="authors"
    )
    assert found["severity"].values.tolist() == [1, 2]
    ratio = relative_errors(found, found, replicates=50).sel(measure="mCECE")
    assert float(ratio["low"]) < 1 < float(ratio["high"])
    assert float(ratio["replicate"].mean()) == pytest.approx(1, abs=0.2)


def test_differences_are_paired() -> None:
    base = table()
    first, second = (
        relative_errors(table(skill=skill, seed=seed), base, replicates=200) for skill, seed in ((1, 1), (1.3, 2))
    )
    change = difference(first, second)
    assert np.isfinite(change["low"]).values.tolist() == [name != "mCECE" for name in change["measure"].values]
    change = change.sel(measure="mCNLL")
    assert float(change["high"]) < 0
    apart = np.hypot(first["stderr"], second["stderr"]).sel(measure="mCNLL")
    assert float(change["stderr"]) < 0.9 * float(apart)
    second.attrs["images_sha256"] = "other"
    with pytest.raises(LandscapeError, match="different images"):
        difference(first, second)


def test_baseline_must_share_corruptions(tmp_path: Path) -> None:
    ours = table()
    with pytest.raises(LandscapeError, match="none of these"):
        relative_errors(ours, table().assign_coords(corruption=["frost", "pixelate"]))
    (tmp_path / "base.csv").write_text("1,2\n")
    with pytest.raises(LandscapeError, match="columns"):
        read_baseline(tmp_path / "base.csv")


@pytest.mark.skipif(not PAPER.is_dir(), reason="the published files are not at hand")
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_alexnet_against_itself_is_one(name: str) -> None:
    published = read_baseline(PAPER / f"{name}_alexnet_dnn_corrupted.csv")
    found = relative_errors(published, published)
    np.testing.assert_array_equal(found["value"], 1)
    assert found.sizes["corruption"] == 15


# Consistency ----------------------------------------------------------------------------------------------------------


def test_tables_say_how_networks_compare() -> None:
    """Paired over images: a gain on every image is found, noise that both share is not taken for a difference."""
    source = np.random.default_rng(0)
    hard = source.exponential(3.0, 80)
    nll = np.stack([hard, hard])[None]
    facts = {"nll": 0.0, "accuracy": 0.5, "ece": 0.1}

    def corrupted_as(name: str, gain: float) -> xarray.Dataset:
        of_image = nll - np.array([gain, 0.0])[None, :, None] + source.normal(0, 0.01, nll.shape)
        right = (source.random(nll.shape) < 0.5) if name == "one" else first["correct_of_image"].values
        means = {key: (("severity", "corruption"), np.full((1, 2), value)) for key, value in facts.items()}
        cell = ("severity", "corruption", "image")
        return xarray.Dataset(
            {**means, "nll_of_image": (cell, of_image), "correct_of_image": (cell, right)},
            coords={"severity": [1], "corruption": ["fog", "snow"]},
            attrs={"name": name, "images_sha256": "same"},
        )

    first = corrupted_as("one", 0.0)
    printed = cli.table({"corruptions": [first, corrupted_as("two", 0.5)]}, [])
    assert "the NLL of two is lower than that of one at fog; at snow the choice of images alone may explain" in printed
    assert "the error of two and of one: everywhere the choice of images alone may explain the difference." in printed
    # Four images of 80 that only one classifies rightly: a fair coin falls alike four times in 12.5 % of cases.
    better = corrupted_as("two", 0.0)
    better["correct_of_image"] = first["correct_of_image"].copy()
    wrong = [np.flatnonzero(~row)[:4] for row in first["correct_of_image"].values[0]]
    for row, images in enumerate(wrong):
        better["correct_of_image"][0, row, images] = True
    assert "the error of two and of one: everywhere" in cli.table({"corruptions": [first, better]}, [])
    strangers = corrupted_as("two", 0.5).assign_attrs(images_sha256="other")
    assert "two is not compared with one: the networks were shown different images" in cli.table(
        {"corruptions": [first, strangers]}, []
    )


def test_consistency_by_hand() -> None:
    frames = torch.tensor([[[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]], dtype=torch.float64)
    same, cross_entropy = consistency_of.sequence_consistency(frames.log())
    assert float(same) == 0.5
    by_hand = -(0.8 * np.log(0.9) + 0.2 * np.log(0.1) + 0.3 * np.log(0.8) + 0.7 * np.log(0.2)) / 2
    assert float(cross_entropy) == pytest.approx(by_hand)
    certain = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]], dtype=torch.float64)
    assert float(consistency_of.sequence_consistency(certain.log())[1]) == 0


def test_consistency_of_files(tmp_path: Path) -> None:
    """Frames that repeat are consistent for a deterministic network, not quite for one that drops out."""
    like = pictures(5)
    still = np.repeat(like.images.permute(0, 2, 3, 1).numpy()[:, None], 6, axis=1)
    np.save(tmp_path / "tilt.npy", still)
    np.save(tmp_path / "scale.npy", still[:, :, ::-1])
    found = consistency_of.measure(net("resnet_dnn_18"), tmp_path, like, protocol=FRESH)
    assert found["perturbation"].values.tolist() == ["tilt", "scale"]
    np.testing.assert_array_equal(found["consistency"], 1)
    with torch.no_grad():
        logs = net("resnet_dnn_18")(like.batch(0, 5)).double().log_softmax(-1)
    entropy = float(-(logs.exp() * logs).sum(1).mean())
    assert float(found["cross_entropy"][0]) == pytest.approx(entropy, rel=1e-4)
    noisy = consistency_of.measure(stochastic(), tmp_path, like, protocol=FRESH, passes=1)
    assert float(noisy["consistency"].min()) < 1
    np.testing.assert_allclose(noisy["consistency_of_sequence"].mean("sequence"), noisy["consistency"])
    with pytest.raises(LandscapeError, match="no perturbations"):
        CifarP(tmp_path / "none", like)


# Attacks --------------------------------------------------------------------------------------------------------------


def test_gradient_is_that_of_the_average() -> None:
    """Up to a positive factor for each image; also where every probability of the label underflows."""
    data = pictures(6)
    for scale in (1.0, 400.0):
        model = net().double()
        with torch.no_grad():
            last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
            last.weight.mul_(scale)
        predictor = Predictor(model, data, protocol=Protocol(dropout="fresh", dtype="float64"))
        images = predictor.images(data, 0, 6).requires_grad_()
        with predictor.masks() as masks:
            each = []
            for sample in range(4):
                masks.address(first_example=0, sample=sample)
                each.append(predictor.network(images).log_softmax(-1))
        average = metrics.log_mean_exp(torch.stack(each))
        (expected,) = torch.autograd.grad(average[torch.arange(6), data.labels].sum(), images)
        found = input_gradient(predictor, images, data.labels, 0, range(4))
        cosine = nn.functional.cosine_similarity(found.flatten(1), expected.flatten(1))
        np.testing.assert_allclose(cosine, 1, atol=1e-9)


def stochastic() -> nn.Module:
    """One hidden layer with dropout: its outputs depend on images and masks alike."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), MCDropout(0.3), nn.Linear(64, CLASSES))
    with torch.no_grad():
        for parameter in model.parameters():
            width = parameter.shape[-1]
            parameter.copy_(2 * torch.randn(parameter.shape, generator=generator(0, "mlp")) / width**0.5)
    return model


def linear() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator(0, "linear")))
    return model


@pytest.mark.parametrize("scale", [0.02, 20.0])
def test_fgsm_of_two_classes_in_closed_form(scale: float) -> None:
    """A linear network of two classes: each pixel moves by epsilon against the difference of the weights.

    However sure the network is: of large logits, the softmax in float32 is exactly 0 or 1.
    """
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator(0, "linear")))
    data = pictures(8)
    two = Images(images=data.images.clamp(50, 200), labels=data.labels % 2, classes=2, name="two", split="test")
    predictor = Predictor(model, two, protocol=FRESH)
    found = attacked(predictor, two, Attack("fgsm", 4 / 255), 0, 8)
    weight = model[1].weight.detach().view(2, 3, 8, 8)
    sign = (weight[1 - two.labels] - weight[two.labels]).sign()
    torch.testing.assert_close(found, two.images / 255 + 4 / 255 * sign)


@pytest.mark.parametrize("attack", [Attack("fgsm", 8 / 255), Attack("pgd", 8 / 255, steps=4, passes=2)])
def test_attacks_stay_in_the_ball_and_hurt(attack: Attack) -> None:
    data = pictures(24)
    predictor = Predictor(stochastic(), data, protocol=FRESH)
    average = predictor.average(data, 0, 24, range(20))
    truth = Images(
        images=data.images,
        labels=average.argmax(1),
        classes=CLASSES,
        name="own",
        split="test",
        mean=data.mean,
        std=data.std,
    )
    found = attacked(predictor, truth, attack, 0, 24)
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    raw = found * std + mean
    assert float((raw - data.images / 255).abs().max()) <= 8 / 255 + 1e-6
    assert float(raw.min()) >= -1e-6
    assert float(raw.max()) <= 1 + 1e-6
    before = metrics.nll(average, truth.labels)
    after = metrics.nll(metrics.log_mean_exp(predictor.passes(found, 0, range(20))), truth.labels)
    assert after > before + 0.1


def test_attacks_do_not_depend_on_the_batch() -> None:
    data = pictures(20)
    predictor = Predictor(linear(), data, protocol=FRESH)
    attack = Attack("pgd", 8 / 255, steps=2)
    whole = attacked(predictor, data, attack, 0, 20)
    parts = torch.cat([attacked(predictor, data, attack, start, start + 5) for start in range(0, 20, 5)])
    torch.testing.assert_close(whole, parts)
    assert not torch.equal(whole, attacked(predictor, data, attack, 0, 20, seed=1))


def test_accuracy_falls_with_the_radius() -> None:
    data = pictures(60)
    labels = linear()(data.batch(0, 60)).argmax(1)
    own = Images(
        images=data.images, labels=labels, classes=CLASSES, name="own", split="test", mean=data.mean, std=data.std
    )
    attacks = [Attack("pgd", radius / 255, steps=3) for radius in (1, 8)]
    found = adversarial.measure(linear(), own, attacks=attacks, protocol=FRESH)
    assert found["accuracy"].values[0] == 1
    assert found["accuracy"].values[1] > found["accuracy"].values[2]
    assert found["kind"].values.tolist() == ["none", "pgd", "pgd"]
    np.testing.assert_allclose(found["correct_of_image"].mean("image"), found["accuracy"])
    for radius in (-1.0, float("nan"), float("inf")):
        with pytest.raises(LandscapeError, match="bad attack"):
            adversarial.measure(linear(), own, attacks=[Attack("pgd", radius)], protocol=FRESH)
    with pytest.raises(argparse.ArgumentTypeError, match="divides by zero"):
        cli.radii_of("1/255,8/0")


def test_a_radius_is_a_share_of_the_range_of_all_images() -> None:
    """Of a few floating-point images as of all of them; an attack that is named twice is made once."""
    data = pictures(60)
    pixels = data.batch(0, 60)
    pixels[(pixels == pixels.max()).nonzero()[0, 0]] *= 3
    own = Images(images=pixels, labels=linear()(pixels).argmax(1), classes=CLASSES, name="own", split="test")
    attack = Attack("fgsm", 0.01)
    found = adversarial.measure(linear(), own, attacks=[attack, attack], protocol=FRESH.replace(images=10))
    assert found.sizes["attack"] == 2
    chosen = examples(own, FRESH.replace(images=10))
    predictor = Predictor(linear(), chosen, protocol=FRESH)
    moved = attacked(predictor, chosen, attack, 0, 10, within=adversarial.pixel_range(own))
    expected = metrics.examples(linear()(moved).double().log_softmax(1), chosen.labels).nll
    np.testing.assert_allclose(found["nll_of_image"][1], expected.detach(), rtol=1e-4)
    assert adversarial.pixel_range(chosen) != adversarial.pixel_range(own)


# Pictures and command -------------------------------------------------------------------------------------------------


def test_picture_draws_published_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(name: str) -> Figure:
        return picture.draw([table(name="ours")], tmp_path / name, baseline=table(skill=0.5, name="published"))

    # Three corruptions have no quartiles: they are points.
    accuracy = 100 * table()["accuracy"].sel(severity=1).values
    made = drawn("points.pdf")
    assert len(made.axes) == 3
    assert [text.get_text() for text in made.legends[0].get_texts()] == ["ours", "published"]
    points = [line.get_ydata()[0] for line in made.axes[0].lines[: len(accuracy)]]
    assert sorted(points) == pytest.approx(sorted(accuracy))
    monkeypatch.setattr(picture, "FEWEST", len(accuracy))
    median = drawn("boxes.pdf").axes[0].lines[4].get_ydata()[0]
    assert median == pytest.approx(np.median(accuracy))


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = {"model": {"name": "resnet_mcdo_18", "num_classes": 10, "width": 4}, "data": {"name": "digits"}}
    checkpoint.save("a.safetensors", nets.build(**recipe["model"]).state_dict(), recipe=recipe)
    shared = ["a.safetensors", "--images", "20", "--passes", "2", "--device", "cpu"]
    few = ["--corruptions", "contrast,shot_noise", "--severities", "1,5"]
    attack = ["--epsilon", "8/255", "--attack", "fgsm", "--attack-passes", "2"]
    assert cli.main([*shared, *few, *attack, "--plot", "r.png", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["corruptions"][0]["corruption"] == ["contrast", "shot_noise"]
    assert facts["adversarial"][0]["epsilon"] == pytest.approx([0, 8 / 255])
    assert Path("r.png").is_file()
    assert Path("r-attacks.png").is_file()
    (result,) = [
        path for path in Path("results/robustness").glob("*.nc") if "corruption" in xarray.load_dataset(path).dims
    ]
    assert cli.main([*shared, *few, "--only", "corruptions", "--baseline", str(result)]) == 0
    printed = capsys.readouterr().out
    assert "mCE" in printed
    assert "100.0 [" in printed
    with pytest.raises(LandscapeError, match="--cifar-p DIR"):
        cli.main([*shared, "--only", "perturbations"])


def test_intervals_of_mean_corruption_errors_cover() -> None:
    """Calibrated predictions: errors of a bin's gap are all noise, which mCECE adds up over the cells."""
    source = numpy_generator(0, "corrupted")
    population = 4000
    skill = source.standard_normal(population)
    level = skill + np.array([[1.5, 1.0, 0.5], [1.0, 0.5, 0.0]])[..., None]
    confidence = 0.35 + 0.64 / (1 + np.exp(-level))
    correct = source.random(confidence.shape) < confidence - 0.05

    def table(rows: np.ndarray | slice) -> xarray.Dataset:
        chosen = {
            "correct_of_image": correct[..., rows],
            "nll_of_image": -np.log(np.where(correct, confidence, 1 - confidence))[..., rows],
            "confidence_of_image": confidence[..., rows],
        }
        place = bin_of(torch.from_numpy(chosen["confidence_of_image"].copy()).float(), 10).numpy()
        gaps = chosen["confidence_of_image"] - chosen["correct_of_image"]
        cell, image = ("severity", "corruption"), ("severity", "corruption", "image")
        return xarray.Dataset(
            {name: (image, values) for name, values in chosen.items()}
            | {
                "accuracy": (cell, chosen["correct_of_image"].mean(-1)),
                "nll": (cell, chosen["nll_of_image"].mean(-1)),
                "ece": (cell, sum(np.abs(np.where(place == number, gaps, 0).mean(-1)) for number in range(10))),
            },
            coords={"severity": [1, 2], "corruption": ["fog", "snow", "contrast"]},
        )

    whole = table(slice(None))
    truth = corrupted.relative_errors(whole, whole, replicates=2)["value"].values
    held, plain, off = [], [], []
    for _ in range(100):
        found = corrupted.relative_errors(table(source.choice(population, 150)), whole, replicates=150)
        held.append((found["low"].values <= truth) & (truth <= found["high"].values))
        plain.append(abs(found["value"][2] - truth[2]) <= 1.96 * found["stderr"][2])
        off.append([float(found[name][2]) - truth[2] for name in ("value", "debiased")])
    # 100 samples: a true 95 % is seen in 88.5 to 100 of them (3 sigma).
    assert (np.mean(held, axis=0) >= 0.885).all(), np.mean(held, axis=0)
    assert np.mean(plain) < 0.5
    assert abs(np.mean(off, axis=0)[1]) < 0.5 * np.mean(off, axis=0)[0]
