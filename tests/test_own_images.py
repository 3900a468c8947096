"""Images of a user's own at the command line: what they are shown as, and what a reader is told of it."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

from landscape import command
from landscape.data import Images
from landscape.objective import Objective
from landscape.objective.fit import Fit, fit
from landscape.store.protocol import Protocol

QUICK = ["--only", "top", "--top", "1", "--tolerance", "0.1"]


def network(channels: int = 3) -> nn.Module:
    """One that any image size fits."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of two networks, their source, bytes with labels and pictures by class."""
    monkeypatch.chdir(tmp_path)
    source = Path(__file__).read_text().partition("def network")[2].partition("\n\n\n")[0]
    Path("nets.py").write_text(
        f"import torch\nfrom torch import nn\n\n\ndef network{source}\n\n\ndef grey():\n    return network(1)\n"
    )
    for name, channels in {"net.pt": 3, "grey.pt": 1}.items():
        torch.save(network(channels).state_dict(), name)
    stream = np.random.default_rng(0)
    pixels = stream.integers(0, 256, (40, 6, 5, 3), dtype=np.uint8)
    np.savez("bytes.npz", images=pixels, labels=np.arange(40) % 3)
    for label in "abc":
        for number, side in enumerate((6, 9)):
            path = Path("pictures", label, f"{number}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(stream.integers(0, 256, (side, 6), dtype=np.uint8)).save(path)
    return tmp_path


def hessian(*arguments: str, name: str = "network") -> int:
    return command.run("landscape.hessian.cli", [*arguments, "--model", f"nets.py:{name}", *QUICK])


def test_bytes_without_a_normalisation_are_warned_about_and_their_protocol_is_another(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {
        "raw": [],
        "shown": ["--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25"],
        "as they are": ["--mean", "0,0,0"],
    }
    hashes, losses = set(), set()
    for name, given in flags.items():
        assert hessian("net.pt", "--data", "bytes.npz", "--json", *given) == 0
        output = capsys.readouterr()
        facts = json.loads(output.out)
        (line,) = [line for line in output.err.splitlines() if "no normalisation" in line] or [""]
        assert line.startswith("warning: bytes.npz holds uint8 images") == (name == "raw")
        assert ("--mean 0,0,0 --std 1,1,1" in line) == (name == "raw")
        assert facts["loss"] == pytest.approx(facts["cross_entropy"] + facts["l2"])
        hashes.add(facts["protocol_hash"])
        losses.add(facts["loss"])
    assert len(hashes) == 3
    # A mean of zero leaves the images as they are, and the protocol says that this was asked for.
    assert len(losses) == 2


def test_the_table_tells_loss_accuracy_population_and_no_split(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hessian("net.pt", "--data", "bytes.npz", "--weight-decay", "0.1") == 0
    output = capsys.readouterr()
    assert "on all 40 images of bytes.npz, a sample of an unknown population, protocol" in output.out
    assert "net: loss 1." in output.out
    assert "+ L2 " in output.out
    assert "(train)" not in output.out
    # An untrained network is at chance, and so are images that it does not know.
    assert "warning: net has an accuracy of 0.3" in output.err
    assert "the most frequent class alone gives 0.35" in output.err


@pytest.mark.parametrize("instrument", ["feature_maps", "fourier"])
def test_loss_and_accuracy_stand_beside_feature_maps(
    folder: Path, instrument: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["net.pt", "--model", "nets.py:network", "--data", "bytes.npz", "--blocks", "1,2", "--passes", "2"]
    assert command.run(f"landscape.{instrument}.cli", arguments) == 0
    output = capsys.readouterr()
    assert "; loss 1." in output.out
    assert "warning: net has an accuracy" in output.err


def test_pictures_are_resized_and_stay_grey_for_a_network_of_one_channel(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hessian("grey.pt", "--data", "pictures", name="grey") == 2
    assert "--resize 6" in capsys.readouterr().err
    for weights, name in {"grey.pt": "grey", "net.pt": "network"}.items():
        assert hessian(weights, "--data", "pictures", "--resize", "6x8", "--json", name=name) == 0
        assert json.loads(capsys.readouterr().out)["images"] == 6
    assert hessian("net.pt", "--data", "bytes.npz", "--resize", "6") == 2
    assert "--resize is for folders" in capsys.readouterr().err


def test_fit_is_loss_accuracy_and_chance_over_the_examples() -> None:
    model = network()
    images = Images(torch.rand(50, 3, 6, 5), torch.tensor([0] * 30 + [1] * 10 + [2] * 10), 3, "noise", "train")
    objective = Objective(model, images, weight_decay=0.1, protocol=Protocol(dtype="float64"), micro_batch=7)
    found = fit(objective)
    terms = objective.value()
    assert (found.loss, found.cross_entropy, found.l2) == pytest.approx((terms.loss, terms.cross_entropy, terms.l2))
    with torch.no_grad():
        right = model.double()(images.images.double()).argmax(1) == images.labels
    assert found.accuracy == pytest.approx(float(right.double().mean()))
    assert (found.chance, found.images) == (0.6, 50)
    assert Fit.of(found.attributes()) == found
    assert Fit.of({}) is None


@pytest.mark.parametrize(
    ("accuracy", "chance", "images", "is_near"),
    [
        (0.1, 0.1, 10_000, True),
        (0.18, 0.1, 10_000, True),
        (0.24, 0.1, 10_000, False),
        (0.2, 0.1, 60, True),
        (0.96, 0.95, 10_000, False),
        (0.05, 0.01, 10_000, True),
        (0.35, 0.01, 10_000, False),
        (float("nan"), 0.1, 100, False),
    ],
)
def test_near_chance(accuracy: float, chance: float, images: int, is_near: bool) -> None:
    found = Fit(loss=1.0, data_loss=1.0, l2=0.0, accuracy=accuracy, chance=chance, images=images)
    assert found.is_near_chance == is_near
