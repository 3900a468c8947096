"""Series of checkpoints: sorted into trainings, measured with warm starts, resumed to the same bits."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from nets_for_tests import Dense, small_images, small_net
from torch import nn

from landscape import Objective, Protocol, checkpoint, training
from landscape.data import Images, load
from landscape.errors import LandscapeError
from landscape.hessian import spectrum
from landscape.series import along, cli, order
from landscape.store.journal import Journal

TIMES = (1, 2, 5, 9)


def trained(times: tuple[int, ...] = TIMES, seed: int = 0) -> list[nn.Module]:
    """The same small network at several times of a training."""
    data, nets = small_images(), []
    net = small_net(seed=seed).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    for epoch in range(1, max(times) + 1):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(data.images), data.labels).backward()
        optimizer.step()
        if epoch in times:
            nets.append(small_net())
            nets[-1].load_state_dict(net.state_dict())
    return nets


def objectives(nets: list[nn.Module], seen: list[int] | None = None) -> Any:
    def objective(number: int, recalibrated: bool) -> Objective:
        if seen is not None:
            seen.append(number)
        protocol = Protocol(dtype="float64", batch_norm="recalibrated" if recalibrated else "running")
        return Objective(nets[number], small_images(), weight_decay=0.01, protocol=protocol)

    return objective


EVERYTHING = ("loss", "top", "smallest", "trace", "path", "barrier")


def test_every_number_is_that_of_its_checkpoint() -> None:
    nets = trained()
    result = along(objectives(nets), TIMES, parts=EVERYTHING, top=2, trace_products=60)
    assert result["time"].values.tolist() == list(TIMES)
    for number, net in enumerate(nets):
        truth = Dense(net, small_images(), weight_decay=0.01)
        values = torch.linalg.eigvalsh(truth.hessian).numpy()
        row = result.isel(time=number)
        assert float(row["loss"]) == pytest.approx(truth.loss, rel=1e-9)
        assert row["eigenvalue"].values == pytest.approx(values[:-3:-1], rel=0.02)
        assert np.abs(row["eigenvalue"].values[:, None] - values).min(1) == pytest.approx(0, abs=0.02 * values[-1])
        assert float(row["smallest_eigenvalue"]) == pytest.approx(values[0], abs=0.05 * values[-1])
        assert float(row["smallest_eigenvalue"]) >= values[0] - 1e-9
        assert abs(float(row["trace"]) - values.sum()) < 4 * float(row["trace_stderr"])
    # Warm starts need fewer products than the first, cold one.
    assert result["products"].values[1:].max() < result["products"].values[0]


def test_fifty_checkpoints_cost_ten_times_one() -> None:
    data = load("digits").subset(150, 0)
    images = Images(nn.functional.avg_pool2d(data.batch(0, 150)[:, :1], 2), data.labels, 10, "digits", "train")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    optimizer, nets = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), []
    for _ in range(50):
        for rows in (slice(0, 50), slice(50, 100), slice(100, 150)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images.images[rows]), images.labels[rows]).backward()
            optimizer.step()
        nets.append(copy.deepcopy(net))

    def objective(number: int, recalibrated: bool) -> Objective:
        return Objective(nets[number], images, weight_decay=1e-4)

    result = along(objective, range(1, 51), parts=("top", "trace"))
    of_one = [spectrum(objective(number, False), only=("top", "trace")) for number in (0, 24, 49)]
    assert result.attrs["total_products"] <= 10 * np.mean([one.attrs["products"] for one in of_one])
    for number, one in zip((0, 24, 49), of_one, strict=True):
        assert float(result["eigenvalue"][number, 0]) == pytest.approx(float(one["eigenvalue"][0]), rel=0.02)


def test_the_trajectory_keeps_its_distances_in_its_plane() -> None:
    nets = trained((1, 2, 5))
    result = along(objectives(nets), (1, 2, 5), parts=("path",))
    points = [nn.utils.parameters_to_vector(net.parameters()).detach().double() for net in nets]
    # Two steps span the plane: nothing is left out of it.
    assert float(result["variance_share"].sum()) == pytest.approx(1)
    assert np.linalg.norm(result["path"].values[0]) == pytest.approx(float((points[0] - points[2]).norm()), rel=1e-5)
    assert result["path"].values[2].tolist() == [0, 0]


def test_a_checkpoint_that_is_there_twice_is_no_obstacle(caplog: pytest.LogCaptureFixture) -> None:
    first, last = trained((1, 2))
    result = along(objectives([first, last, last]), (1, 2, 3), parts=("loss", "path", "barrier"))
    assert float(result["barrier"][1]) == 0
    assert "path" not in result
    assert "no path: the trajectory lies on one line" in caplog.text


def test_a_barrier_stands_between_networks_of_different_valleys() -> None:
    here, there = trained((99, 100)), trained((99, 100), seed=5)
    low = float(along(objectives(here), (8, 9), parts=("barrier",))["barrier"][0])
    high = float(along(objectives([here[1], there[1]]), (8, 9), parts=("barrier",))["barrier"][0])
    assert low < 0.01
    assert high > 0.1
    # The same by hand: the highest of the same points above the chord.
    objective = objectives([here[1], there[1]])(0, True)
    start = objective.point
    step = objectives([here[1], there[1]])(1, False).point - start
    heights = [objective.value(start + share * step).loss for share in np.linspace(0, 1, 11)]
    chord = np.linspace(heights[0], heights[-1], 11)
    assert high == pytest.approx(float((np.array(heights) - chord).max()), rel=1e-6)


def test_a_killed_series_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    nets = trained()
    settings: dict[str, Any] = {"parts": ("loss", "top", "smallest", "trace")}
    whole = along(objectives(nets), TIMES, **settings)

    def stopping(number: int, recalibrated: bool) -> Objective:
        if number == 2:
            raise KeyboardInterrupt
        return objectives(nets)(number, recalibrated)

    journal = tmp_path / "journal"
    with Journal(journal, {"key": "x"}) as kept, pytest.raises(KeyboardInterrupt):
        along(stopping, TIMES, journal=kept, **settings)
    seen: list[int] = []
    with Journal(journal, {"key": "x"}) as kept:
        resumed = along(objectives(nets, seen), TIMES, journal=kept, **settings)
    assert seen == [2, 3]
    xarray.testing.assert_identical(whole, resumed)
    assert [path.name for path in tmp_path.iterdir()] == ["journal"]


def test_damaged_vectors_cost_products_and_no_bound(tmp_path: Path) -> None:
    nets = trained()
    journal = tmp_path / "journal"
    with Journal(journal, {"key": "x"}) as kept:
        along(objectives(nets), TIMES[:2], parts=("top",), journal=kept)
    (tmp_path / "journal.vectors-1").write_bytes(b"no vectors")
    with Journal(journal, {"key": "x"}) as kept:
        resumed = along(objectives(nets), TIMES, parts=("top",), journal=kept)
    largest = torch.linalg.eigvalsh(Dense(nets[2], small_images(), weight_decay=0.01).hessian)[-1]
    assert float(resumed["eigenvalue"][2, 0]) == pytest.approx(float(largest), rel=0.02)


def test_checkpoints_are_sorted_into_trainings(tmp_path: Path) -> None:
    for name in (
        "net-epoch10.pt",
        "net-epoch9.pt",
        "net-epoch2.pt",
        "other_5.pth",
        "other_40.pth",
        "note.txt",
        ".net-epoch3.pt",
    ):
        (tmp_path / name).write_bytes(b"")
    found = order.series([tmp_path])
    assert [(one.name, one.times) for one in found] == [("net", (2, 9, 10)), ("other", (5, 40))]
    first, last = tmp_path / "first", tmp_path / "last"
    for path in (first, last):
        path.with_suffix(".pt").write_bytes(b"")
    given = order.series([last.with_suffix(".pt"), first.with_suffix(".pt")])
    assert [path.stem for path in given[0].files] == ["last", "first"]
    assert given[0].times == (0, 1)
    # Lightning's own names; and words that end like one of time.
    for folder, names, label, times in (
        ("lightning", ("epoch=0-step=50.ckpt", "epoch=0-step=100.ckpt", "epoch=1-step=200.ckpt"), None, (50, 100, 200)),
        ("sweep", ("sweep3_epoch1.pt", "sweep3_epoch2.pt"), "sweep3", (1, 2)),
        ("deep", ("deep12-8.pt", "deep12-9.pt"), "deep12", (8, 9)),
    ):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_bytes(b"")
        (one,) = order.series([tmp_path / folder])
        assert (one.name, one.times) == (label or str(tmp_path / folder), times)
    # A training of another folder tells nothing of these.
    other = tmp_path / "runs"
    other.mkdir()
    for number in (1, 2):
        (other / f"epoch_{number}.pt").write_bytes(b"")
    assert len(order.series([other, last.with_suffix(".pt"), first.with_suffix(".pt")])) == 2


def test_our_own_checkpoints_tell_their_epoch(tmp_path: Path) -> None:
    recipe = training.recipe("digits-plain").header(seed=3)
    for name, epoch in (("r-after7-seed3", 7), ("r-seed3", 20), ("r-after12-seed3", 12)):
        path = tmp_path / f"{name}.safetensors"
        checkpoint.save(path, {"weight": torch.zeros(1)}, recipe=recipe, history=[{"epoch": epoch}])
    (found,) = order.series([tmp_path])
    assert (found.name, found.times) == ("r-seed3", (7, 12, 20))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no checkpoints"),
        (["net-1.pt"], "has one checkpoint"),
        (["a/net-1.pt", "b/net-1.pt"], r"two checkpoints of time 1, \S*a/net-1.pt and \S*b/net-1.pt: give one"),
        (["epoch_9.pt", "epoch_10.pt", "best.pt"], r"known of \S*/best.pt, as it is of epoch_9.pt: leave"),
        (["net-epoch_9.pt", "net-epoch_10.pt", "last.pt", "best.pt"], r"known of \S*/last.pt, \S*/best.pt, as"),
    ],
)
def test_what_is_no_series_is_refused(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    given = [tmp_path / name for name in names] or [tmp_path]
    with pytest.raises(LandscapeError, match=message):
        order.series(given)


FACTORY = """
import sys
sys.path.insert(0, {tests!r})
from nets_for_tests import small_images, small_net as net


def data(split):
    return small_images()
"""


def test_the_command_measures_draws_and_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(FACTORY.format(tests=str(Path(__file__).parent)))
    for name in ("plain-seed0", "plain-seed1"):
        for time, net in zip(TIMES, trained(), strict=True):
            Path("runs").mkdir(exist_ok=True)
            torch.save(net.state_dict(), f"runs/{name}-epoch{time}.pt")
    common = ["runs", "--model", "nets.py:net", "--data", "nets.py:data", "--images", "all"]
    assert cli.main([*common, "--plot", "series.png", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["results"]
    assert [fact["series"] for fact in facts] == ["plain-seed0", "plain-seed1"]
    assert facts[0]["time"] == list(TIMES)
    assert facts[0]["eigenvalue"] == facts[1]["eigenvalue"]
    assert Path("series.png").stat().st_size > 1000
    assert len(list(Path("results/series").glob("*.nc"))) == 2
    assert [path for path in Path("results/series").iterdir() if path.name.startswith(".")] == []
    # A known answer needs no weights but the last ones.
    shutil.copy("runs/plain-seed0-epoch9.pt", "saved.pt")
    assert cli.main([*common]) == 0
    table = capsys.readouterr().out
    assert "plain-seed1" in table
    assert "principal plane" in table
    assert cli.main([*common, "--plan"]) == 0
    assert "4 checkpoints; about" in capsys.readouterr().out
    with pytest.raises(LandscapeError, match="give 3 or more"):
        cli.main([*common, "--only", "barrier", "--points", "2"])
