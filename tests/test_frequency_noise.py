"""Noise in rings of the spectrum, and what it does to predictions."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from landscape import checkpoint, nets
from landscape.data import Images
from landscape.errors import LandscapeError
from landscape.frequency_noise import cli, drops_compared, measure
from landscape.frequency_noise.bands import FREQUENCIES, banded, in_ring, ring, white_noise
from landscape.frequency_noise.robustness import drop_interval
from landscape.metrics.confidence import Z, of_paired_shares
from landscape.store.protocol import Protocol


def data(count=16, side=8):
    pixels = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    return Images(images=pixels, labels=torch.arange(count) % 2, classes=2, name="random", split="test")


@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 24), (15, 15)])
def test_rings_share_out_the_spectrum(height, width):
    count = torch.zeros(height, width, dtype=torch.int64)
    for frequency in FREQUENCIES:
        count += in_ring(height, width, frequency)
    assert bool((count == 1).all())


def test_noise_is_in_its_ring_alone():
    noise = white_noise((64, 3, 16, 16), seed=0, first=0)
    total = torch.zeros_like(noise)
    for frequency in [frequency for frequency in FREQUENCIES if in_ring(16, 16, frequency).any()]:
        inside = ring(16, 16, frequency)
        given, matched = (banded(noise, inside, matched=flag) for flag in (False, True))
        outside = torch.fft.fft2(given).abs()[..., ~inside]
        assert outside.numel() == 0 or float(outside.max()) < 1e-9
        share = float(inside.double().mean())
        degrees = noise.shape[0] * noise.shape[1] * int(inside.sum())
        # A mean square of so many normal numbers has a relative standard deviation of sqrt(2 / degrees).
        assert float(given.square().mean()) == pytest.approx(share, rel=4 * (2 / degrees) ** 0.5)
        assert float(matched.square().mean()) == pytest.approx(1, rel=4 * (2 / degrees) ** 0.5)
        total += given
    torch.testing.assert_close(total, noise)


class MeanSign(nn.Module):
    """Class by the sign of the mean pixel: blind to all frequencies but 0."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False), nn.Identity())
        nn.init.constant_(self.first[0].weight, 1 / 3)

    def forward(self, images):
        mean = 50 * self.first(images).mean((1, 2, 3))
        return torch.stack([-mean, mean], dim=1)


def test_a_network_that_sees_the_mean_alone_minds_frequency_zero_alone():
    source = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 2
    pixels = 0.3 * (2 * labels[:, None, None, None] - 1) + 0.1 * torch.randn(60, 3, 10, 10, generator=source)
    images = Images(images=pixels, labels=labels, classes=2, name="means", split="test")
    result = measure(MeanSign(), images, frequencies=(0, 0.2, 1), matched=1.0)
    drop = result["accuracy_drop"].sel(energy="matched").values
    assert float(result["clean_accuracy"]) == 1
    assert drop[0] > 0.1
    assert (drop[1:] == 0).all()
    np.testing.assert_allclose(result["noise_rms"].sel(energy="matched"), 1, rtol=0.2)
    assert np.abs(result["nll_rise"].sel(energy="matched").values[1:]).max() < 1e-5


def test_predictions_against_a_direct_evaluation():
    model, images = nets.build("resnet_dnn_18", num_classes=2, width=4).eval(), data()
    result = measure(model, images, frequencies=(0.5,), width=0.3, given=2.0, seed=4, batch=5)
    noise = banded(white_noise(images.images.shape, seed=4, first=0), ring(8, 8, 0.5, 0.3), matched=False)
    with torch.no_grad():
        outputs = model(images.images + 2 * noise.float())
    expected = nn.functional.cross_entropy(outputs, images.labels, reduction="none")
    np.testing.assert_allclose(result["nll_of_image"].sel(energy="given")[0], expected, rtol=1e-4, atol=1e-5)
    assert float(result["accuracy"][0, 0]) == pytest.approx((outputs.argmax(1) == images.labels).double().mean())


def test_intervals_of_the_drop_are_those_of_paired_shares():
    model, images = nets.build("resnet_dnn_18", num_classes=2, width=4).eval(), data()
    result = measure(model, images, frequencies=(0.2, 0.8), width=0.3, given=3.0)
    drops = (result["clean_correct_of_image"] - result["correct_of_image"]).transpose("energy", "frequency", "image")
    np.testing.assert_allclose(drop_interval(result), of_paired_shares(drops.values), rtol=1e-12)


def test_dropout_averages_over_masks_and_batches_change_nothing():
    model, images = nets.build("resnet_mcdo_18", num_classes=2, width=4).eval(), data()
    one, other = (measure(model, images, frequencies=(0, 1), width=0.3, passes=3, batch=batch) for batch in (3, 16))
    for name in one.data_vars:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-5, err_msg=str(name))
    off = measure(model, images, frequencies=(0, 1), width=0.3, protocol=Protocol(split="test"))
    assert off.attrs["passes"] == 1
    assert not np.allclose(off["nll"], one["nll"], rtol=1e-4)
    effect = drops_compared(one, other)
    np.testing.assert_allclose(effect["accuracy_drop"], 0, atol=1e-12)
    # Of images on which networks agree, the two that are added make the interval.
    half = Z / np.sqrt(len(images) + 2) ** 2
    np.testing.assert_allclose(effect["accuracy_drop_high"], half)
    np.testing.assert_allclose(effect["accuracy_drop_low"], -half)
    shuffled = images.select(torch.arange(len(images)).flip(0))
    for shown, change in ((images, {"given": 0.5}), (images, {"seed": 1}), (shuffled, {})):
        with pytest.raises(LandscapeError, match="different images or noise"):
            drops_compared(one, measure(model, shown, frequencies=(0, 1), width=0.3, **change))


def test_refusals():
    model, images = nets.build("resnet_dnn_18", num_classes=2, width=4), data()
    with pytest.raises(LandscapeError, match="no frequency"):
        measure(model, images, frequencies=(0.05,), width=0.01)
    with pytest.raises(LandscapeError, match="fresh"):
        measure(model, images, protocol=Protocol(dropout="fixed"))
    with pytest.raises(LandscapeError, match="label 1"):
        measure(nets.build("resnet_dnn_18", num_classes=1, width=4), images, frequencies=(0,))


def test_command(tmp_path, capsys):
    paths = []
    for name in ("resnet_dnn_18", "resnet_mcdo_smoothing_18"):
        arguments = {"name": name, "num_classes": 10, "width": 4}
        recipe = {"recipe": name, "model": arguments, "data": {"name": "digits"}, "training": {}, "seed": 0}
        paths.append(tmp_path / f"{name}.safetensors")
        checkpoint.save(paths[-1], nets.build(**arguments).state_dict(), recipe=recipe)
    common = [*map(str, paths), "--images", "10", "--passes", "2", "--frequencies", "0,0.5,1", "--width", "0.25"]
    common += ["--device", "cpu", "--out", str(tmp_path / "out.nc")]
    # Images of 16 x 16 have frequencies in 9 of the 11 usual rings.
    assert cli.main([str(paths[0]), "--plan", "--images", "10", "--device", "cpu"]) == 0
    assert "10 images x 19 noises x 1 passes" in capsys.readouterr().out
    assert cli.main([*common, "--plot", str(tmp_path / "noise.png")]) == 0
    assert "drop [2] - [1], matched" in capsys.readouterr().out
    assert (tmp_path / "noise.png").stat().st_size > 10_000
    assert cli.main([*common, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["results"]
    assert np.array(facts[0]["accuracy"]).shape == (2, 3)
    assert facts[1]["dropout_calls"] == 8
