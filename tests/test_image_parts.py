"""What instruments keep for resampling images: parts whose means are the measured numbers."""

import math

import numpy as np
import pytest
import torch
import xarray
from nets_for_tests import small_images, small_net

from analyses.audit import claims
from landscape import fourier, metrics, nets
from landscape.data import Images
from landscape.eigen import eigenpairs
from landscape.errors import LandscapeError
from landscape.look.comparison import smoothed_upstream
from landscape.objective import CurvatureOperator, Objective
from landscape.robustness.choices import SEVERITIES
from landscape.robustness.corruptions import STANDARD
from landscape.store.protocol import Protocol
from landscape.surface import line, plane
from landscape.surface.summary import rise_of_images, rises, roughness, roughness_influence


@pytest.fixture(scope="module")
def surface():
    objective = Objective(small_net(), small_images(), weight_decay=0.1, micro_batch=16)
    return plane(objective, points=7, keep_losses=True)


def test_losses_of_images_make_the_surface(surface):
    np.testing.assert_allclose(surface["loss_of_image"].mean("image"), surface["cross_entropy"], rtol=1e-6)
    l2 = surface[["l2"]]
    bowl = rises(l2, "l2", (0.5,))[0].mean
    whole = rises(surface, shares=(0.5,))[0].mean
    assert rise_of_images(surface, 0.5).mean() == pytest.approx(whole - bowl, rel=1e-5)
    with pytest.raises(LandscapeError, match="whole lattices"):
        plane(Objective(small_net(), small_images()), points=5, keep_losses=True, tolerance=0.1)


def test_an_images_influence_on_roughness_is_its_derivative(surface):
    found = roughness_influence(surface)
    assert abs(found.mean()) < 1e-6 * np.abs(found).max()
    images = surface.sizes["image"]
    moved = surface.copy()
    step = 1e-3
    weights = np.full(images, 1.0)
    weights[3] += step * images
    weights /= weights.sum()
    # The weight of one image rises by `step` of the whole, those of the others fall in proportion.
    moved["loss"] = (surface["loss_of_image"].astype(float) * weights).sum("image") + surface["l2"]
    change = math.log(roughness(moved)[0] / roughness(surface)[0])
    assert change == pytest.approx(step / (1 + step) * found[3], rel=0.02)


def test_a_line_keeps_none():
    assert "loss_of_image" not in line(Objective(small_net(), small_images()), points=5)


def test_the_top_eigenvalue_is_the_mean_of_its_groups_quotients():
    objective = Objective(small_net(), small_images(), weight_decay=0.1, protocol=Protocol(dtype="float64"))
    curvature = CurvatureOperator(objective)
    pairs = eigenpairs(curvature, 1, tolerance=1e-8)
    projections, _, counts = CurvatureOperator(objective, micro_batch=4).batch_projections(pairs.vectors)
    mean = float((projections[:, 0, 0] * counts).sum() / counts.sum())
    assert mean == pytest.approx(pairs.values[0] - 0.1, rel=1e-6)


def test_curves_of_images_average_to_the_curve():
    pixels = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    data = Images(images=pixels, labels=torch.zeros(6, dtype=torch.int64), classes=4, name="random", split="test")
    network = nets.build("resnet_mcdo_smoothing_18", num_classes=4, width=4).eval()
    protocol = Protocol(dropout="fresh", split="test")
    result = fourier.measure(network, data, protocol=protocol, passes=2, of_image=True)
    mean = result["delta_log_amplitude"].sel(path="half_diagonal")
    np.testing.assert_allclose(result["delta_of_image"].mean("image"), mean, atol=1e-5)
    before, behind = (
        claims.high_frequencies("off", where)({"fourier": result}, {"fourier": result}).value
        for where in (claims._before, claims._behind)
    )
    part = claims.own_part(claims._frequencies_off)({"fourier": result}, {"fourier": result}).value
    assert part == pytest.approx(behind - before)
    # A 2 x 2 box passes cos^2 of half the frequency along both axes of the diagonal, and tanh hardly bends small maps.
    assert -6 < part < -1


def spectra(sides, kinds, slope):
    """Log amplitudes that fall by `slope` a unit of frequency on maps of these sides, one stage."""
    counts = [side // 2 + 1 for side in sides]
    frequency = np.full((len(sides), max(counts)), np.nan)
    curve = np.full((1, len(sides), max(counts), 3), np.nan)
    for place, (side, count) in enumerate(zip(sides, counts, strict=True)):
        frequency[place, :count] = 2 * np.arange(count) / side
        curve[0, place, :count] = (-slope * frequency[place, :count])[:, None]
    return xarray.Dataset(
        {
            "frequency": (("point", "bin"), frequency),
            "end": ("point", [(side - 1) // 2 for side in sides]),
            "delta_of_image": (("dropout", "point", "bin", "image"), curve),
        },
        {"dropout": ["off"], "stage": ("point", [0] * len(sides)), "kind": ("point", kinds)},
    )


def test_maps_of_different_size_are_read_at_equal_frequency():
    plain, smooth = spectra([8], ["block"], 2.0), spectra([9, 10], ["block", "smoothing"], 2.0)
    read = claims.high_frequencies("off", claims._before)
    one, other = read({"fourier": plain}, {"fourier": smooth}), read({"fourier": smooth}, {"fourier": plain})
    # The highest below pi on 8 pixels is 0.75; on 9 alone it would be 0.89.
    assert one.value == pytest.approx(-1.5)
    assert other.value == pytest.approx(-1.5)


def test_uncertainty_is_relative_to_the_scale_of_the_map():
    def maps(scale):
        shape = ("point", "image")
        return xarray.Dataset(
            {
                "model_std_of_image": (shape, scale * np.full((2, 3), 0.2)),
                "power_of_image": (shape, scale**2 * np.full((2, 3), 4.0)),
            },
            {"stage": ("point", [0, 0]), "kind": ("point", ["block", "smoothing"])},
        )

    read = claims.model_uncertainty(claims._before)
    for scale in (1.0, 30.0):
        own = {"feature_maps": maps(scale)}
        assert read(own, own).value == pytest.approx(math.log(0.1))


def points(text):
    """A result with a point a letter: b(lock), s(moothing) or (su)p(ling), which begins a stage."""
    kinds = [{"b": "block", "s": "smoothing", "p": "subsampling"}[letter] for letter in text]
    return xarray.Dataset(
        {}, {"kind": ("point", kinds), "stage": ("point", np.cumsum([letter == "p" for letter in text]))}
    )


@pytest.mark.parametrize(
    ("plain", "smooth", "of_plain", "before", "after"),
    [
        # A vision transformer's maps keep their size: all of it is one stage.
        ("bbbbbb", "bbsbbsbb", [1, 3, 5], [1, 4, 7], [2, 5, 7]),
        ("bbpbb", "bbspbbs", [1, 4], [1, 5], [2, 6]),
        # A blur behind a pooling is in front of blocks, not behind one; two layers in a row are one.
        ("bbpbb", "bbpsbbss", [1, 4], [1, 5], [1, 7]),
        # Of other depth: stage by stage.
        ("bbbpb", "bsbpbs", [2, 4], [0, 2, 4], [1, 2, 5]),
    ],
)
def test_networks_are_compared_where_either_is_smoothed(plain, smooth, of_plain, before, after):
    one, other = points(plain), points(smooth)
    assert claims._before(one, other) == of_plain
    assert claims._behind(one, other) == of_plain
    assert claims._before(other, one) == before
    assert claims._behind(other, one) == after


@pytest.mark.parametrize(("text", "upstream"), [("bbsbb", True), ("bbspbbs", True), ("bbps", False), ("bb", False)])
def test_a_map_may_carry_what_a_smoothing_layer_before_it_did(text, upstream):
    assert smoothed_upstream(points(text)) is upstream


def test_a_blur_of_tokens_has_its_arithmetic_behind_it_alone():
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    data = Images(images=pixels, labels=torch.zeros(4, dtype=torch.int64), classes=4, name="random", split="test")
    protocol = Protocol(dropout="off", split="test")
    plain, smooth = (
        {
            "fourier": fourier.measure(
                nets.build(name, num_classes=4, width=16, seed=0).eval(), data, protocol=protocol, of_image=True
            )
        }
        for name in ("vit_mcdo_6", "vit_mcdo_smoothing_6")
    )
    part = claims.own_part(claims._frequencies_off)
    assert part(plain, smooth).value == 0
    assert part(smooth, plain).value < -0.3


def test_outliers_do_not_move_with_the_scale():
    values = np.r_[np.linspace(1, 2, 18), 8.0, 9.0]

    def result(scale):
        return {"mini_batches": xarray.Dataset({"eigenvalue": (("batch", "rank"), scale * values[:, None])})}

    for read in (claims.outlier_size, claims.outlier_share):
        assert read(result(7.0), {}).value == pytest.approx(read(result(1.0), {}).value)
    assert claims.outlier_share(result(1.0), {}).value == pytest.approx(10.0)
    assert claims.outlier_size(result(1.0), {}).value == pytest.approx(math.log(8.5 / np.median(values)))


def test_corrupted_ece_is_resampled_as_it_is_measured(monkeypatch):
    source = np.random.default_rng(0)
    logs = torch.log_softmax(torch.from_numpy(source.normal(size=(40, 5)) * 2), 1)
    batch = metrics.examples(logs, torch.from_numpy(source.integers(5, size=40)))
    metric_set = metrics.MetricSet(5)
    metric_set.add(batch)
    shape = ("severity", "corruption", "image")
    measured = xarray.Dataset(
        {
            "ece": (shape[:2], [[metric_set.result()["ece"].value]]),
            "confidence_of_image": (shape, batch.confidence.numpy()[None, None]),
            "correct_of_image": (shape, batch.correct.numpy()[None, None].astype(float)),
        }
    )
    monkeypatch.setattr(claims, "_weights", lambda count: np.full((3, count), 1 / count))
    found = claims.corrupted_ece({"corruptions": measured}, {})
    assert found.replicates == pytest.approx(found.value)


def test_on_the_published_files_c10_is_mce():
    source = np.random.default_rng(1)
    shape = (len(SEVERITIES), len(STANDARD), 20)
    correct, sure = source.random(shape) < 0.6, source.random(shape)
    axes = ("severity", "corruption")
    coordinates = {"severity": list(SEVERITIES), "corruption": list(STANDARD)}
    measured = xarray.Dataset(
        {
            "accuracy": (axes, correct.mean(2)),
            "nll": (axes, sure.mean(2)),
            "ece": (axes, np.full(shape[:2], 0.1)),
            "correct_of_image": ((*axes, "image"), correct),
            "confidence_of_image": ((*axes, "image"), sure),
            "nll_of_image": ((*axes, "image"), sure),
        },
        coordinates,
    )
    baseline = xarray.Dataset(
        {name: (axes, np.full(shape[:2], 0.5)) for name in ("accuracy", "nll", "ece")}, coordinates
    )
    error = claims.relative_claims(baseline)[0]
    assert error.statement == "lower mCE"
    found = error.read({"corruptions": measured}, {})
    assert found.value == pytest.approx(200 * (1 - correct.mean()))
    assert found.replicates.mean() == pytest.approx(found.value, rel=0.05)
    # Fewer corruptions are no mCE.
    assert math.isnan(error.read({"corruptions": measured.isel(corruption=slice(3))}, {}).value)
    with pytest.raises(LandscapeError, match="15 corruptions"):
        claims.relative_claims(baseline.isel(corruption=slice(3)))
