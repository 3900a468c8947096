"""`analyses.gpu`, at the size of a test and on the CPU."""

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_pooling import faulty
from torch.nn import functional

from analyses import gpu
from landscape import checkpoint, nets, training
from landscape.compute import pooling, settings
from landscape.errors import LandscapeError
from landscape.objective import CurvatureOperator


def test_a_device_that_computes_well_passes_and_another_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gpu.check(torch.device("cpu"), tmp_path)["product_error"] < gpu.MOST_ERROR
    product = CurvatureOperator.__call__

    def rough(self: CurvatureOperator, vectors: torch.Tensor) -> torch.Tensor:
        # TF32 keeps ten bits.
        exact = product(self, vectors)
        return exact if exact.dtype == torch.float64 else exact.to(torch.bfloat16).float()

    monkeypatch.setattr(CurvatureOperator, "__call__", settings.measurement(rough))
    with pytest.raises(LandscapeError, match="no measurement here can be trusted"):
        gpu.check(torch.device("cpu"), tmp_path)


def test_a_device_whose_gradient_is_wrong_for_one_layer_does_not_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooling, "functional", SimpleNamespace(pad=functional.pad, avg_pool2d=faulty))
    with pytest.raises(LandscapeError, match=r"differences of the .*no measurement here can be trusted"):
        gpu.check(torch.device("cpu"), tmp_path)


def test_jobs_end_before_the_deadline(tmp_path: Path) -> None:
    # It does not listen, and neither does the process that it has started.
    tmp_path.joinpath("stubborn.py").write_text(
        "import pathlib, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if len(sys.argv) < 2:\n"
        "    child = subprocess.Popen([sys.executable, __file__, 'child'])\n"
        "    pathlib.Path('child').write_text(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    program = gpu.Program(argparse.Namespace(out=tmp_path, deadline=8.0, processes=2))
    jobs = [
        gpu.Job("quick", ["platform"]),
        gpu.Job("failing", ["platform.nothing"]),
        gpu.Job("endless", ["stubborn"]),
        gpu.Job("dropped", ["platform"]),
    ]

    asked: list[object] = []

    def late(jobs: object) -> bool:
        asked.append(jobs)
        return len(asked) > 3

    program.run(jobs, 4.0, late=late)
    assert program.left > 0
    child = Path("/proc", tmp_path.joinpath("child").read_text(), "stat")
    # Nobody waits for the orphan here: dead is what it is all the same.
    assert not child.exists() or child.read_text().split()[2] == "Z"
    assert [job.status for job in jobs[:2]] == [0, 1]
    assert jobs[2].status not in (0, None)
    assert jobs[3].status is None
    log = json.loads((tmp_path / "gpu.json").read_text())
    assert log["quick"]["status"] == 0
    assert "dropped" not in log


@pytest.mark.parametrize(
    ("change", "message"),
    [(["--kinds", "nonsense"], "unknown kind 'nonsense'"), (["--kinds", "mcdo-tanh"], "no recipe 'digits-mcdo-tanh'")],
)
def test_what_cannot_be_trained_is_refused_at_once(change: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(LandscapeError, match=message):
        gpu.main(["--preset", "digits", "--device", "cpu", "--out", str(tmp_path), *change])


def test_networks_that_are_there_are_not_trained_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = training.recipe("digits-plain")
    weights = nets.build(**recipe.model).state_dict()
    checkpoint.save(tmp_path / "checkpoints" / recipe.file_name(0), weights, recipe=recipe.header(0))
    given = ["--preset", "digits", "--kinds", "mcdo", "--seeds", "1", "--device", "cpu", "--no-claims"]
    assert gpu.main([*given, "--out", str(tmp_path)]) == 0
    assert "all done" in capsys.readouterr().out
    assert json.loads((tmp_path / "gpu.json").read_text())["missing"] == []
