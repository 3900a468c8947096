"""``python -m landscape.surface`` from the outside."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from landscape import checkpoint, nets
from landscape.command import run
from landscape.store import result
from landscape.surface.cells import Cells
from landscape.surface.cli import main

PUBLISHED = Path(__file__).parents[2] / "shared" / "paper" / "cifar100_resnet_mcdo_18_x10_losslandscape.csv"
MODEL = {"name": "resnet_mcdo_18", "num_classes": 10, "width": 2}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = nets.build(**MODEL)
    recipe = {"recipe": "test", "model": MODEL, "data": {"name": "digits"}, "training": {"weight_decay": 5e-4}}
    return checkpoint.save(tmp_path_factory.mktemp("net") / "net.safetensors", model.state_dict(), recipe=recipe)


def test_json_has_rows_over_alpha(network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(network), "--points", "3", "--span", "0.5", "--images", "40", "--json", "--quiet"]
    assert main([*arguments, "--out", str(tmp_path / "a.nc"), "--plot", str(tmp_path / "a.png")]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["alpha"] == facts["beta"] == [-0.5, 0.0, 0.5]
    kept = result.load(tmp_path / "a.nc")
    for name in ("loss", "cross_entropy", "l2", "accuracy", "loss_stderr", "ece"):
        np.testing.assert_array_equal(facts[name], kept[name].values)
        assert kept[name].dims == ("alpha", "beta")
    assert facts["protocol"]["dropout"] == "off"
    assert facts["weight_decay"] == 5e-4
    assert len(facts["summary"]["curvature"]) == 2
    assert (tmp_path / "a.png").is_file()
    # Asked again, it answers from the file; the journal is gone.
    written = (tmp_path / "a.nc").stat().st_mtime_ns
    assert main([*arguments, "--out", str(tmp_path / "a.nc")]) == 0
    assert (tmp_path / "a.nc").stat().st_mtime_ns == written
    assert not list(tmp_path.glob(".*journal*"))


def test_table_names_what_is_not_finite(network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(network), "--points", "3", "--span", "1e30", "--images", "20", "--out", str(tmp_path / "a.nc")]
    assert main([*arguments, "--plot", str(tmp_path / "a.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if "not finite" in line]
    assert "8 of 9 cells are not finite, the first at alpha = -1e+30, beta = -1e+30" in line


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["NET", "--points", "1"], "1 points do not make an axis"),
        (["NET", "--span", "0"], "empty or not finite"),
        (["NET", "--stderr", "little"], "not a standard error"),
        (["NET", "--gif", "a.gif"], "needs --frames"),
        (["NET", "--line", "--html", "a.html"], "need a plane"),
        (["NET", "--frames", "3"], "masks, which are off"),
        (["NET", "--directions", "missing.safetensors"], "cannot read missing.safetensors"),
        (["NET", "--between", "missing.safetensors"], "missing.safetensors"),
        ([], "nothing to measure"),
        (["--from-csv", "missing.csv"], "no file missing.csv"),
    ],
)
def test_bad_usage_is_one_line(
    network: Path, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = [str(network) if argument == "NET" else argument for argument in arguments]
    extra = ["--images", "10", "--out", str(tmp_path / "a.nc"), "--quiet"] if given else []
    assert run("landscape.surface.cli", [*given, *extra]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert complaint in captured.err
    assert captured.err.count("\n") == 1


def test_directions_are_shared_through_a_file(network: Path, tmp_path: Path) -> None:
    file, common = str(tmp_path / "axes.safetensors"), ["--points", "2", "--images", "20", "--quiet"]
    main([str(network), *common, "--seed", "5", "--save-directions", file, "--out", str(tmp_path / "a.nc")])
    main([str(network), *common, "--directions", file, "--out", str(tmp_path / "b.nc")])
    first, second = (result.load(tmp_path / name) for name in ("a.nc", "b.nc"))
    np.testing.assert_allclose(first.loss, second.loss, rtol=1e-5)
    # A cached surface has no directions: they are saved all the same.
    Path(file).unlink()
    main([str(network), *common, "--seed", "5", "--save-directions", file, "--out", str(tmp_path / "a.nc")])
    assert Path(file).is_file()


def test_published_surface_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not PUBLISHED.is_file():
        pytest.skip("the published file is not at hand")
    assert main(["--from-csv", str(PUBLISHED), "--json", "--plot", str(tmp_path / "a.png")]) == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert summary["minimum"] == pytest.approx(0.01233, abs=1e-5)
    assert summary["maximum"] == pytest.approx(0.02248, abs=1e-5)


def test_a_published_surface_is_saved_where_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = (-1.0, 0.0, 1.0)
    rows = [[a, b, a * a + b * b, 0.0, 0.9, *[0.5] * 11] for a in steps for b in steps]
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).write_text("\n".join(",".join(map(str, row)) for row in rows) + "\n")
    files, out = [str(tmp_path / "one.csv"), str(tmp_path / "two.csv")], tmp_path / "out.nc"
    assert main(["--from-csv", files[0], "--out", str(out), "--quiet"]) == 0
    kept = result.load(out)
    np.testing.assert_array_equal(kept["loss"], [[2, 1, 2], [1, 0, 1], [2, 1, 2]])
    assert kept.attrs["source"] == "one.csv"
    assert kept.attrs["instrument"] == "landscape.surface"
    out.unlink()
    assert main(["--from-csv", files[0], "--from-csv", files[1], "--out", str(out), "--quiet"]) == 0
    assert sorted(path.name for path in tmp_path.glob("*.nc")) == ["out-one.nc", "out-two.nc"]
    assert run("landscape.surface.cli", ["--from-csv", files[0], "--from-csv", files[0], "--out", str(out)]) == 2
    # What cannot be summarised leaves nothing behind.
    (tmp_path / "nan.csv").write_text("\n".join(",".join(map(str, [*row[:2], "nan", *row[3:]])) for row in rows))
    assert run("landscape.surface.cli", ["--from-csv", str(tmp_path / "nan.csv"), "--out", str(out)]) == 2
    assert not out.exists()


def test_killed_at_any_moment_it_goes_on_to_the_same_bits(network: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "landscape.surface", str(network), "--points", "5", "--images", "64"]
    command += ["--dropout", "fresh", "--quiet", "--out"]
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    for pieces in (3, 9):
        process = subprocess.Popen([*command, str(tmp_path / "killed.nc")], env=environment)
        while process.poll() is None and not any(
            journal.stat().st_size > 1500 * pieces for journal in tmp_path.glob(".*.journal")
        ):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "killed.nc").exists()
    subprocess.run([*command, str(tmp_path / "killed.nc")], env=environment, check=True)
    subprocess.run([*command, str(tmp_path / "whole.nc")], env=environment, check=True)
    killed, whole = (result.load(tmp_path / name) for name in ("killed.nc", "whole.nc"))
    for dataset in (killed, whole):
        # What it took, and the name of the file that was asked for.
        del dataset.attrs["seconds"], dataset.attrs["command"], dataset.attrs["date"]
    assert killed.identical(whole)


@pytest.mark.parametrize("again", [["--force"], ["--seed", "1"]])
def test_interrupted_over_a_result_that_exists_it_resumes(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: list[str]
) -> None:
    arguments = [str(network), "--points", "3", "--images", "20", "--quiet", "--device", "cpu"]
    arguments += ["--out", str(tmp_path / "a.nc")]
    assert run("landscape.surface.cli", arguments) == 0
    measured, calls, until = Cells.measure, 0, 4

    def counted(*values: Any, **settings: Any) -> Any:
        nonlocal calls
        if calls == until:
            raise KeyboardInterrupt
        calls += 1
        return measured(*values, **settings)

    monkeypatch.setattr(Cells, "measure", counted)
    assert run("landscape.surface.cli", [*arguments, *again]) == 130
    assert len(list(tmp_path.glob(".*.journal"))) == 1
    calls, until = 0, 99
    assert run("landscape.surface.cli", [*arguments, *again]) == 0
    assert calls == 9 - 4
    assert [path.name for path in tmp_path.iterdir()] == ["a.nc"]


def test_a_damaged_cached_result_is_measured_again_and_one_line_says_so(
    network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.nc"
    arguments = [str(network), "--points", "3", "--images", "20", "--json", "--device", "cpu", "--out", str(path)]
    assert run("landscape.surface.cli", arguments) == 0
    first = json.loads(capsys.readouterr().out)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert run("landscape.surface.cli", arguments) == 0
    second = json.loads(capsys.readouterr().out)
    assert len(caplog.records) == 1
    assert "does not match its checksum): it is measured again" in caplog.text
    assert first.pop("seconds") != second.pop("seconds")
    first.pop("date"), second.pop("date")
    assert first == second
    assert result.load(path).attrs["key"] == first["key"]


def test_torchrun_shares_cells_to_the_same_bits(network: Path, tmp_path: Path) -> None:
    command = ["-m", "landscape.surface", str(network), "--points", "4", "--images", "48", "--tolerance", "0.05"]
    command += ["--quiet", "--out"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    # The same number of threads: it decides the order in which a convolution sums.
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    for before, name in ((launcher, "two.nc"), ([], "one.nc")):
        whole = [sys.executable, *before, *command, str(tmp_path / name)]
        subprocess.run(whole, env=environment, check=True, capture_output=True)
    two, one = (result.load(tmp_path / name).drop_attrs() for name in ("two.nc", "one.nc"))
    assert two.identical(one)
    assert not list(tmp_path.glob(".*journal*"))
