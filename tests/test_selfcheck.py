import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from nets_for_tests import small_images, small_net
from torch import nn

from benchmarks import selfcheck_trial as trial
from landscape import command, selfcheck
from landscape.nets import MCDropout
from landscape.nets.smoothing import Blur
from landscape.objective import Objective
from landscape.store.protocol import Protocol


def checks(model: nn.Module | None = None, protocol: Protocol | None = None) -> list[selfcheck.Check]:
    return trial.checks(model or small_net(), small_images(), protocol or Protocol(dropout="fixed"))


@pytest.mark.parametrize("field", [{}, {"batch_norm": "recalibrated"}, {"batch_norm": "batch"}, {"l2": "unsquared"}])
def test_selfcheck_passes_on_a_sound_network(field: dict[str, str]) -> None:
    failed = [check for check in checks(protocol=Protocol(**field)) if not check.passed]
    assert not failed


# All of them in benchmarks/selfcheck_trial.py.
@pytest.mark.parametrize(
    "name",
    [
        "LeNet with view",
        "transformer, ReLU, norm last",
        "ReLU, no bias, no norm",
        "weight norm",
    ],
)
def test_no_false_alarm_on_healthy_networks(name: str) -> None:
    (case,) = [case for case in trial.healthy() if case.name == name]
    assert not trial.false_alarms([case])


def kinked() -> nn.Module:
    """Every activation of the first layer is exactly zero at every black pixel: no derivative exists there."""
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(4, 3),
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
            if "bias" in name:
                parameter.zero_()
    return net.eval()


def test_kinks_are_judged_as_kinks() -> None:
    data = small_images()
    data.images[:, :, :, :3] = 0
    net = kinked()
    exact = Objective(net, data, protocol=Protocol(dtype="float64"))
    # At the weights themselves differences never settle: the check would fail if it looked nowhere else.
    direction = exact.gradient() / exact.gradient().norm()
    ahead, behind = (exact.gradient(exact.point + step * direction) for step in (1e-9, -1e-9))
    assert float((ahead - behind).norm()) > 1e-4, "the gradient jumps"
    assert not [check for check in trial.checks(net, data, Protocol()) if not check.passed]


def awkward_net() -> nn.Module:
    """Everything that a fault may hide in: batch norm, dropout, a blur."""
    layers = list(small_net())
    return nn.Sequential(*layers[:4], MCDropout(0.3), Blur((1, 2, 1)), *layers[4:]).eval()


@pytest.mark.parametrize("name", list(trial.FAULTS)[::3])  # all of them in the long trial
def test_planted_faults_are_noticed(name: str) -> None:
    with trial.FAULTS[name]():
        found = checks(awkward_net())
    assert any(not check.passed for check in found)


def test_selfcheck_is_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("stranger.py").write_text(Path(__file__).with_name("nets_for_tests.py").read_text())
    torch.save(copy.deepcopy(small_net()).state_dict(), "net.pt")
    data = small_images()
    np.savez("images.npz", images=data.images.numpy(), labels=data.labels.numpy())
    arguments = ["net.pt", "--model", "stranger.py:small_net", "--data", "images.npz", "--images", "37"]
    assert command.run("landscape.selfcheck.cli", arguments) == 0
    assert "FAILED" not in capsys.readouterr().out
