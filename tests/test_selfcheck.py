import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from nets_for_tests import small_images, small_net

from landscape import command, objective, selfcheck
from landscape.objective import Objective
from landscape.store.protocol import Protocol

PROTOCOL = Protocol(dtype="float64")


def checks(weight_decay: float = 0.1) -> dict[str, selfcheck.Check]:
    def made(decay: float) -> Objective:
        return Objective(small_net(), small_images(), protocol=PROTOCOL, weight_decay=decay)

    found = selfcheck.curvature_checks(made(weight_decay), made(weight_decay + 1), made(weight_decay))
    return {check.name.split()[0]: check for check in [*found, *selfcheck.blur_checks(kernel=(1, 2, 1))]}


def test_selfcheck_passes_on_a_sound_network() -> None:
    assert all(check.passed for check in checks().values())


@pytest.mark.parametrize(("broken", "caught"), [("l2", "weight"), ("asymmetric", "symmetry:"), ("scaled", "product")])
def test_selfcheck_catches_what_is_wrong(monkeypatch: pytest.MonkeyPatch, broken: str, caught: str) -> None:
    original = objective.CurvatureOperator.__call__

    def wrong(self: objective.CurvatureOperator, vectors: torch.Tensor) -> torch.Tensor:
        product = original(self, vectors)
        if broken == "l2":
            return product + 0.5 * self.objective.weight_decay * vectors
        if broken == "asymmetric":
            return product + 0.01 * product.norm() * vectors.roll(1, 0)
        return 1.05 * product

    monkeypatch.setattr(objective.CurvatureOperator, "__call__", wrong)
    assert not checks()[caught].passed


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
