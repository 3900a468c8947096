"""Spectra against brute force and Parseval; transfer functions against theory."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from landscape import checkpoint, nets
from landscape.data import Images
from landscape.errors import LandscapeError
from landscape.feature_maps import measure as measure_maps
from landscape.fourier import cli, measure, transfer
from landscape.fourier.spectrum import FLOOR, Grid, transform
from landscape.store.protocol import Protocol

FRESH = Protocol(dropout="fresh", split="test")


def data(count=6, side=16, channels=3):
    pixels = torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(0))
    return Images(images=pixels, labels=torch.zeros(count, dtype=torch.int64), classes=4, name="random", split="test")


def network(name="resnet_mcdo_smoothing_18"):
    return nets.build(name, num_classes=4, width=4).eval()


@pytest.mark.parametrize("side", [16, 15, 2, 3])
def test_a_sinusoid_is_in_its_own_band_alone(side):
    grid = Grid(side, side)
    steps = torch.arange(side, dtype=torch.float64)
    for band in range(grid.count):
        both = torch.cos(2 * torch.pi * band / side * (steps[:, None] + steps))
        one = torch.cos(2 * torch.pi * band / side * steps).expand(side, -1)
        diagonal = grid.read(transform(both).abs())[0]
        rings = grid.read(transform(one).abs())[1]
        for amplitude in (diagonal, rings):
            assert amplitude.argmax() == band
            others = torch.cat([amplitude[:band], amplitude[band + 1 :]])
            assert others.max() < 1e-9 * amplitude[band]


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 7), (8, 6), (5, 8)])
def test_paths_against_the_whole_spectrum(height, width):
    image = torch.randn(height, width, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    whole, grid = torch.fft.fft2(image).abs(), Grid(height, width)
    shorter = min(height, width)
    u, v = (torch.fft.fftfreq(side, dtype=torch.float64) for side in (height, width))
    ring = (torch.sqrt(u[:, None] ** 2 + v**2) * shorter).round()
    expected = torch.stack([whole[ring == band].mean() for band in range(grid.count)])
    diagonal, rings = grid.read(transform(image).abs())
    torch.testing.assert_close(rings, expected)
    assert float(grid.multiplicity().sum()) == height * width
    if height == width:
        torch.testing.assert_close(diagonal, whole.diagonal()[: grid.count])
        # The authors read the shifted diagonal from its centre on: all frequencies but pi of an even side.
        authors = torch.fft.fftshift(whole).diagonal()[height // 2 :]
        torch.testing.assert_close(diagonal[: len(authors)], authors)
        assert grid.end == len(authors) - 1
    assert float(grid.frequencies()[-1]) == pytest.approx(1 if shorter % 2 == 0 else 1 - 1 / shorter)


def test_relative_log_amplitude_is_the_authors():
    images = data()
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    result = measure(model, images)
    with torch.no_grad():
        maps = model[0](images.images)
    logs = (torch.fft.fftshift(torch.fft.fft2(maps), dim=(-2, -1)).abs() + FLOOR).log().mean((0, 1))
    curve = logs.diagonal()[8:] - logs[8, 8]
    shown = result["delta_log_amplitude"].sel(dropout="off", path="half_diagonal", point="0")
    np.testing.assert_allclose(shown[:8], curve, atol=1e-5)
    assert "noise_to_signal" not in result


@pytest.mark.parametrize("side", [16, 15])
def test_parseval(side):
    model, images = network(), data(4, side)
    spectra = measure(model, images, passes=4)
    maps = measure_maps(model, images, passes=4)
    assert float(maps["model_variance"][-1]) > 0
    np.testing.assert_allclose(spectra["noise_variance"], maps["model_variance"], rtol=1e-5, atol=1e-12)


def test_batches_change_nothing_but_rounding():
    one, other = (measure(network(), data(), passes=3, batch=batch) for batch in (2, 6))
    for name in one.data_vars:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-4, err_msg=str(name))


def test_rounding_is_seen_at_pi_behind_a_blur_alone():
    from device_numbers import IMAGES, PLAIN, above_floor, near, numbers

    single, double = (
        measure(PLAIN, IMAGES, passes=2, protocol=Protocol(dropout="fresh", split="test", dtype=dtype))
        for dtype in ("float32", "float64")
    )
    name = "log_amplitude_stderr"
    with pytest.raises(AssertionError, match=name):
        near(single[name].values, double[name].values, name)
    there, here = (numbers(above_floor(spectra)) for spectra in (single, double))
    for each, value in here.items():
        near(there[each], value, each)


def test_white_noise_has_a_flat_spectrum():
    class Noise(nn.Module):
        def __init__(self):
            super().__init__()
            self.noise, self.blur = nn.Dropout(0.5), nets.Blur((1, 2, 1), "zero")

        def forward(self, images):
            return self.blur(self.noise(images)).mean((2, 3))

    ones = Images(
        images=torch.ones(40, 8, 16, 16),
        labels=torch.zeros(40, dtype=torch.int64),
        classes=4,
        name="ones",
        split="test",
    )
    result = measure(Noise(), ones, passes=8, blocks="noise")
    assert list(result["kind"].values) == ["block", "smoothing"]
    amplitude = result["component_log_amplitude"].sel(component="noise", path="radial")
    stderr = result["component_log_amplitude_stderr"].sel(component="noise", path="radial")
    flat, blurred = amplitude.values
    # Rings of few frequencies have a larger bias of the logarithm, which is far below what a blur does.
    assert np.abs(flat - flat.mean()).max() < 4 * stderr.values[0].max() + 0.02
    assert blurred[0] - blurred[-1] > 1
    effect = result["dropout_effect"].sel(path="radial").values
    assert effect[0, -1] > effect[1, -1]


def test_refusals():
    with pytest.raises(LandscapeError, match="fresh"):
        measure(network(), data(), protocol=FRESH.replace(dropout="fixed"))
    with pytest.raises(LandscapeError, match="window"):
        measure(network(), data(), window="boxcar")
    with pytest.raises(LandscapeError, match="passes 2"):
        measure(network(), data(), passes=1)


class BlurNet(nn.Module):
    """Two blocks, whose bias holds every rectifier open or shuts it, then a blur."""

    def __init__(self, kernel, padding, bias=10.0):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()) for _ in range(2)))
        generator = torch.Generator().manual_seed(0)
        for block in self.layers:
            nn.init.uniform_(block[0].weight, -0.2, 0.2, generator=generator)
            nn.init.constant_(block[0].bias, bias)
        self.smooth = nets.Blur(kernel, padding)
        self.down = nn.MaxPool2d(1)

    def forward(self, images):
        return self.down(self.smooth(self.layers(images))).mean((2, 3))


@pytest.mark.parametrize(
    ("kernel", "padding"),
    [((1, 1), "grow"), ((1, 2, 1), "reflect"), ((1, 3, 3, 1), "replicate"), ((1, 4, 6, 4, 1), "zero")],
)
def test_transfer_function_of_a_blur_is_the_theory(kernel, padding):
    result = transfer.measure(BlurNet(kernel, padding), data(3), images=3).sel(point="smooth")
    omega = np.pi * result["frequency"].values
    taps = np.array(kernel) / sum(kernel)
    theory = np.abs((taps * np.exp(1j * omega[:, None] * np.arange(len(kernel)))).sum(1))
    if kernel == (1, 1):
        np.testing.assert_allclose(theory, np.abs(np.cos(omega / 2)), atol=1e-12)
    for direction, power in (("horizontal", 1), ("diagonal", 2)):
        gain = result["gain"].sel(direction=direction)
        np.testing.assert_allclose(gain, theory**power, atol=1e-5)
        # A linear filter sends nothing to other frequencies.
        np.testing.assert_allclose(result["total_gain"].sel(direction=direction), gain, atol=1e-5)


def test_relative_gain_is_nan_where_nothing_arrives():
    result = transfer.measure(BlurNet((1, 1), "grow", bias=-100.0), data(3), images=3).sel(direction="horizontal")
    dead = result.sel(point="layers.1")
    assert (dead["gain"] == 0).all()
    assert np.isnan(dead["relative_gain"]).all()
    assert (result.sel(point="smooth")["relative_gain"][0] == 1).all()


def test_transfer_of_whole_networks():
    model = network()
    result = transfer.measure(model, data(3, 32), images=3, frequencies=(0, 0.5, 1))
    assert np.isfinite(result["gain"].values).all()
    assert (result["total_gain"] >= result["gain"] - 1e-6).all()
    smoothing = result["relative_gain"].sel(direction="diagonal").values[result["kind"].values == "smoothing"]
    assert (smoothing[:, -1] < smoothing[:, 0]).all()
    assert not any(module._forward_hooks for module in model.modules())


def test_transfer_through_attention():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=4
    )
    model = transformers.ViTForImageClassification(config).eval()
    result = transfer.measure(model, data(2), images=2, frequencies=(0, 1))
    assert np.isfinite(result["gain"].values[:, 1:]).all()


def test_command(tmp_path, capsys):
    paths = []
    for name in ("resnet_dnn_18", "resnet_mcdo_smoothing_18"):
        arguments = {"name": name, "num_classes": 10, "width": 4}
        recipe = {"recipe": name, "model": arguments, "data": {"name": "digits"}, "training": {}, "seed": 0}
        paths.append(tmp_path / f"{name}.safetensors")
        checkpoint.save(paths[-1], nets.build(**arguments).state_dict(), recipe=recipe)
    common = [*map(str, paths), "--images", "8", "--passes", "2", "--device", "cpu", "--out", str(tmp_path / "out.nc")]
    assert cli.main([*common, "--plot", str(tmp_path / "spectra.png")]) == 0
    printed = capsys.readouterr().out
    assert "Delta log A(pi) [2] - [1] before smoothing layers" in printed
    assert cli.main([*common, "--json", "--dropout", "off"]) == 0
    facts = json.loads(capsys.readouterr().out)["results"]
    assert facts[1]["dropout"] == ["off"]
    assert cli.main([*common, "--transfer", "--points", "2", "--plot", str(tmp_path / "transfer.png")]) == 0
    assert "relative to the gain at 0" in capsys.readouterr().out
    assert min((tmp_path / name).stat().st_size for name in ("spectra.png", "transfer.png")) > 10_000
