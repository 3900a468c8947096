"""Passes, ensemble-size curves and effective ensemble sizes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray
from torch import Tensor, nn

from landscape import checkpoint, metrics, nets, predictions
from landscape.compute.masks import Masks
from landscape.compute.randomness import generator
from landscape.data import Images, as_examples
from landscape.errors import LandscapeError
from landscape.metrics.confidence import Z
from landscape.predictions import cli, picture
from landscape.predictions.curves import curves
from landscape.predictions.efficiency import crossing, effective_size
from landscape.predictions.passes import Predictor, deep_ensemble, measure
from landscape.store.journal import Journal
from landscape.store.protocol import Protocol

CLASSES = 6
FRESH = Protocol(dropout="fresh", split="test")


def pictures(count: int = 40, seed: int = 0) -> Images:
    source = generator(seed, "pictures")
    return Images(
        images=torch.randint(0, 256, (count, 3, 8, 8), generator=source, dtype=torch.uint8),
        labels=torch.randint(CLASSES, (count,), generator=source),
        classes=CLASSES,
        name="random",
        split="test",
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
    )


def net(name: str = "resnet_mcdo_18", seed: int = 0) -> nn.Module:
    made = nets.build(name, num_classes=CLASSES, width=4)
    source = generator(seed, "weights")
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=source))
        for norm in made.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.copy_(0.3 * torch.randn(norm.running_mean.shape, generator=source))
                norm.running_var.copy_(0.5 + torch.rand(norm.running_var.shape, generator=source))
    return made.eval()


def plain_passes(model: nn.Module, data: Images, passes: int) -> Tensor:
    """What a plain loop over whole forward passes gives, with the same masks."""
    outputs = []
    with torch.no_grad(), Masks.addressed(seed=0) as masks:
        for sample in range(passes):
            masks.address(first_example=0, sample=sample)
            outputs.append(model(data.batch(0, len(data))))
    return torch.stack(outputs).double().log_softmax(-1)


@pytest.mark.parametrize("name", ["resnet_mcdo_18", "resnet_mcdo_smoothing_18", "preresnet_mcdo_18"])
def test_passes_are_those_of_a_plain_loop(name: str) -> None:
    """Folding, channels last, and work before the first dropout done once change nothing but rounding."""
    model, data = net(name), pictures()
    found = measure(model, data, protocol=FRESH, passes=3, batch=16)
    torch.testing.assert_close(
        torch.from_numpy(found["log_probability"].values).double(), plain_passes(model, data, 3), atol=2e-5, rtol=2e-5
    )
    assert float(np.abs(np.diff(found["log_probability"].values, axis=0)).max()) > 1e-3
    assert model(data.batch(0, 2)).shape == (2, CLASSES)


def test_passes_do_not_depend_on_the_batch() -> None:
    model, data = net(), pictures()
    first, second = (measure(model, data, protocol=FRESH, passes=2, batch=batch) for batch in (7, 64))
    np.testing.assert_allclose(first["log_probability"], second["log_probability"], atol=2e-5)


def test_deterministic_network_is_passed_once() -> None:
    data = pictures(16)
    for model, protocol in ((net("resnet_dnn_18"), FRESH), (net(), Protocol(dropout="off", split="test"))):
        found = measure(model, data, protocol=protocol, passes=50)
        assert found.sizes["pass"] == 1
        with torch.no_grad(), Masks.off():
            expected = model(data.batch(0, 16)).log_softmax(-1)
        np.testing.assert_allclose(found["log_probability"][0], expected, atol=2e-5)


def test_journal_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions.passes, "PIECE", 16)
    model, data = net(), pictures()
    whole = measure(model, data, protocol=FRESH, passes=2)
    with Journal(tmp_path / "journal", {"work": 1}) as journal:
        calls = []
        real = Predictor.passes

        def dies(self: Predictor, images: Tensor, first: int, samples: range) -> Tensor:
            calls.append(first)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return real(self, images, first, samples)

        monkeypatch.setattr(Predictor, "passes", dies)
        with pytest.raises(KeyboardInterrupt):
            measure(model, data, protocol=FRESH, passes=2, journal=journal)
    with Journal(tmp_path / "journal", {"work": 1}) as journal:
        assert len(journal) == 2
        again = measure(model, data, protocol=FRESH, passes=2, journal=journal)
    assert calls[3:] == [32]
    xarray.testing.assert_identical(again, whole)


def test_refuses_what_passes_cannot_give() -> None:
    data = pictures(4)
    with pytest.raises(LandscapeError, match="--dropout fresh"):
        Predictor(net(), data, protocol=Protocol(dropout="fixed"))
    with pytest.raises(LandscapeError, match="--batch-norm running"):
        Predictor(net(), data, protocol=Protocol(batch_norm="batch"))
    with pytest.raises(LandscapeError, match="cannot take images of shape"):
        Predictor(nn.Linear(5, CLASSES), data)
    with pytest.raises(LandscapeError, match=r"not \(images, classes\)"):
        Predictor(nn.Conv2d(3, CLASSES, 3), data)
    with pytest.raises(LandscapeError, match="label"):
        Predictor(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), data)
    with pytest.raises(LandscapeError, match=r"label -100 .* is not a class"):
        Predictor(net(), as_examples((data.batch(0, 4), torch.tensor([0, 1, -100, 2]))))


def synthetic(
    noise: float, *, passes: int = 12, images: int = 600, seed: int = 0, shift: float = 0.0
) -> xarray.Dataset:
    """Passes of a network whose logits are the truth plus noise, new in each pass."""
    truth = 2 * torch.randn(images, CLASSES, generator=generator(0, "truth"), dtype=torch.float64)
    labels = torch.multinomial(truth.softmax(1), 1, generator=generator(0, "labels"))[:, 0]
    draws = torch.randn(passes, images, CLASSES, generator=generator(seed, "draws"), dtype=torch.float64)
    logs = ((1 + shift) * truth + noise * draws).log_softmax(-1)
    return xarray.Dataset(
        {"log_probability": (("pass", "image", "class"), logs.float().numpy()), "label": ("image", labels.numpy())},
        attrs={
            "images": images,
            "passes": passes,
            "members": "passes",
            "images_sha256": "one",
            "name": f"noise {noise}",
        },
    )


def test_curves_are_metrics_of_averages() -> None:
    passes = synthetic(1.5)
    found = curves(passes, sizes=(1, 3, 99), resamples=4, replicates=20)
    assert found["size"].values.tolist() == [1, 3, 12]
    logs, labels = torch.from_numpy(passes["log_probability"].values), torch.from_numpy(passes["label"].values)
    by_hand = []
    for resample in range(4):
        order = torch.randperm(12, generator=generator(0, "resample", resample))
        by_hand.append(metrics.nll(logs[order[:3]].double().exp().mean(0).log(), labels))
    assert float(found["nll"].sel(size=3)) == pytest.approx(np.mean(by_hand), rel=1e-9)
    assert float(found["nll_spread"].sel(size=3)) == pytest.approx(np.std(by_hand, ddof=1), rel=1e-6)
    whole = metrics.MetricSet.of(metrics.log_mean_exp(logs), labels).result()
    for name, (value, stderr) in whole.items():
        assert float(found[name].sel(size=12)) == pytest.approx(value, rel=1e-9), name
        assert float(found[f"{name}_stderr"].sel(size=12)) == pytest.approx(stderr, rel=1e-9), name
        assert float(found[f"{name}_spread"].sel(size=12)) == pytest.approx(0, abs=1e-9), name
    assert float(found["nll"][0] - found["nll"][-1]) > 0.1
    assert float(found["bin_share"].sel(size=3).sum()) == pytest.approx(1)


def test_intervals_hold_the_estimate_and_fit_its_bootstrap() -> None:
    found = curves(synthetic(1.5), sizes=(1, 5), replicates=400)
    for name in ("nll", "accuracy", "brier"):
        low, high, value = (found[f"{name}{part}"].values for part in ("_low", "_high", ""))
        assert (low < value).all(), name
        assert (value < high).all(), name
        np.testing.assert_allclose(high - low, 2 * Z * found[f"{name}_stderr"].values, rtol=0.1, err_msg=name)
        spread = found[f"{name}_replicate"].std("replicate").values
        np.testing.assert_allclose(spread, found[f"{name}_stderr"].values, rtol=0.25, err_msg=name)


def test_crossing_interpolates_in_one_over_size() -> None:
    sizes = np.array([1, 2, 4, 8])
    curve = (0.5 + 1 / sizes)[:, None]
    assert crossing(sizes, curve, np.array([0.5 + 1 / 3]))[0] == pytest.approx(3)
    assert crossing(sizes, curve, np.array([2.0]))[0] == 1
    assert crossing(sizes, curve, np.array([0.5 + 1 / 8]))[0] == pytest.approx(8)
    assert crossing(sizes, curve, np.array([0.4]))[0] == np.inf
    assert np.isnan(crossing(sizes, curve, np.array([np.nan]))[0])
    for undefined in (np.nan, np.inf):
        curve[0] = undefined
        assert crossing(sizes, curve, np.array([1.0]))[0] == 2


def test_effective_size_of_a_network_against_itself_is_the_size() -> None:
    found = curves(synthetic(1.0), sizes=(1, 2, 4), replicates=200)
    same = effective_size(found, found, metrics=("nll", "brier"))
    np.testing.assert_allclose(same["effective_size"], [[1, 2, 4, 12]] * 2)
    np.testing.assert_allclose(same["gain"], 1)


def test_effective_size_counts_what_noise_costs() -> None:
    """Noise of twice the variance needs about twice as many passes; few of the quiet one equal all of the noisy one."""
    quiet, noisy = (
        curves(synthetic(noise, passes=32, images=1500, seed=seed), sizes=(1, 2, 4, 8, 16), replicates=200)
        for noise, seed in ((0.7, 1), (0.7 * 2**0.5, 2))
    )
    found = effective_size(quiet, noisy, metrics=("nll",)).sel(metric="nll", size=8)
    assert 1.5 < float(found["effective_size"]) < 6
    assert float(found["low"]) <= float(found["effective_size"]) <= float(found["high"])
    assert float(found["high"]) < 9
    back = effective_size(noisy, quiet, metrics=("nll",)).sel(metric="nll", size=8)
    assert float(back["effective_size"]) > 8


def test_effective_size_interval_covers() -> None:
    """Two networks of the same distribution, other draws: the interval of passes equal to 4 holds 4."""
    inside = 0
    for seed in range(20):
        first, second = (
            curves(
                synthetic(1.5, passes=8, images=200, seed=100 + 2 * seed + other),
                sizes=(1, 2, 4, 6),
                resamples=4,
                replicates=100,
            )
            for other in (0, 1)
        )
        found = effective_size(first, second, metrics=("nll",)).sel(metric="nll", size=4)
        inside += float(found["low"]) <= 4 <= float(found["high"])
    assert inside >= 17


def test_networks_shown_other_images_are_not_compared() -> None:
    first = curves(synthetic(1.0), sizes=(1,), replicates=10)
    second = first.copy()
    second.attrs["images_sha256"] = "other"
    with pytest.raises(LandscapeError, match="different images"):
        effective_size(first, second)


def test_deep_ensemble_averages_networks() -> None:
    members = [synthetic(1.0, seed=seed) for seed in range(3)]
    whole = deep_ensemble(members)
    assert whole.sizes["pass"] == 3
    averages = [metrics.log_mean_exp(torch.from_numpy(member["log_probability"].values)) for member in members]
    np.testing.assert_allclose(whole["log_probability"], torch.stack(averages), atol=1e-5)
    assert curves(whole, replicates=10)["size"].values.tolist() == [1, 2, 3]
    with pytest.raises(LandscapeError, match="two checkpoints"):
        deep_ensemble(members[:1])
    with pytest.raises(LandscapeError, match="with 5 and 6 outputs"):
        deep_ensemble([members[0].isel({"class": slice(5)}), members[1].isel({"class": slice(6)})])


def test_picture_shows_the_numbers(tmp_path: Path) -> None:
    found = [curves(synthetic(noise), sizes=(1, 4), replicates=20) for noise in (0.5, 1.5)]
    made = picture.draw(found, tmp_path / "curves.svg")
    line = made.subfigs[0].axes[0].lines[1]
    np.testing.assert_allclose(line.get_ydata(), found[1]["nll"])
    assert (tmp_path / "curves.svg").stat().st_size > 1000


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = {"model": {"name": "resnet_mcdo_18", "num_classes": 10, "width": 4}, "data": {"name": "digits"}}
    for name, seed in (("a", 0), ("b", 1)):
        made = nets.build("resnet_mcdo_18", num_classes=10, width=4)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator(seed, "w")))
        checkpoint.save(f"{name}.safetensors", made.state_dict(), recipe=recipe)
    files = ["a.safetensors", "b.safetensors"]
    shared = ["--images", "32", "--passes", "3", "--device", "cpu"]
    assert cli.main([*files, *shared, "--deep-ensemble", "--plot", "curves.png", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [entry["size"] for entry in facts["results"]] == [[1, 2, 3], [1, 2, 3], [1, 2]]
    assert facts["results"][0]["protocol"]["dropout"] == "fresh"
    assert facts["results"][0]["protocol"]["split"] == "test"
    assert len(facts["effective_sizes"]) == 2
    assert Path("curves.png").is_file()
    # Other sizes come from the passes that are kept.
    monkeypatch.setattr(predictions, "measure", None)
    assert cli.main([files[0], *shared, "--sizes", "2"]) == 0
    assert "95 % interval" in capsys.readouterr().out
    with pytest.raises(LandscapeError, match="deep ensemble of one"):
        cli.main([files[0], *shared, "--deep-ensemble"])
