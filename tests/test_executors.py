"""Questions answered by an engine: the same results, and what a worker loses is asked again."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyses import cli, executors, kinds, measuring, studies
from analyses.catalogue import STUDIES
from analyses.measuring import SampleSizes
from landscape.errors import LandscapeError
from landscape.store import result
from landscape.training import recipes

TINY = SampleSizes(32, 2, 3, 32, 5, 16, 2, 32, 3, 2, 16, 2)


def write(name: str, *, fails: bool = False, dies: bool = False) -> None:
    """A question whose answer is a file of its worker's folder."""
    if fails:
        raise ValueError("not today")
    if dies and not Path("died").exists():
        Path("died").touch()
        os._exit(1)
    Path(name).write_text(str(os.getpid()))


@pytest.mark.parametrize("engine", ["processes:2", "dask"])
def test_workers_answer_in_the_folder_of_the_one_who_asks(engine: str, tmp_path: Path, monkeypatch) -> None:
    if engine == "dask":
        pytest.importorskip("distributed", reason="Dask's scheduler is not installed")
    monkeypatch.chdir(tmp_path)
    questions = [(write, {"name": "a"}), (write, {"name": "b", "fails": True}), (write, {"name": "c"})]
    with executors.opened(engine) as executor:
        assert executors.ahead(executor, questions) == 2
    assert {path.name for path in tmp_path.glob("?")} == {"a", "c"}
    assert all(int((tmp_path / name).read_text()) != os.getpid() for name in "ac")


@pytest.mark.parametrize(("engine", "answered"), [("processes:1", 0), ("dask", 1)])
def test_a_lost_worker_loses_no_question(engine: str, answered: int, tmp_path: Path, monkeypatch) -> None:
    if engine == "dask":
        pytest.importorskip("distributed", reason="Dask's scheduler is not installed")
    monkeypatch.chdir(tmp_path)
    with executors.opened(engine) as executor:
        # Dask asks it again itself; what a pool of processes loses, this process asks.
        assert executors.ahead(executor, [(write, {"name": "a", "dies": True})]) == answered
    assert (tmp_path / "died").exists()
    assert (tmp_path / "a").exists() == bool(answered)


def test_a_study_gives_the_same_results_with_two_workers(tmp_path: Path, monkeypatch) -> None:
    base = recipes.RECIPES["digits-plain"]
    tiny = base.replace(name="tiny", epochs=1, model={**base.model, "width": 2})
    monkeypatch.setitem(recipes.RECIPES, tiny.name, tiny)
    monkeypatch.setitem(kinds.BASELINES, "digits", tiny.name)
    monkeypatch.setitem(measuring.SAMPLE_SIZES, "digits", TINY)
    found = {}
    for engine in ("", "processes:2"):
        folder = tmp_path / (engine or "here").partition(":")[0]
        folder.mkdir()
        monkeypatch.chdir(folder)
        assert cli.main(["feature_uncertainty", "--quiet", *(["--executor", engine] if engine else [])]) == 0
        listed = json.loads(studies.listing(Path("results"), "feature_uncertainty", "digits").read_text())["entries"]
        found[engine] = [result.load(Path(entry["file"])) for entry in listed]
    assert len(found[""]) == len(STUDIES["feature_uncertainty"].kinds)
    for here, there in zip(*found.values(), strict=True):
        # Trained twice: files differ in the seconds that they state, and what is measured does not.
        assert all(here.attrs[name] == there.attrs[name] for name in ("name", "data_sha256", "protocol_hash"))
        np.testing.assert_array_equal(here["model_std"], there["model_std"])


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("nonsense", "no executor 'nonsense'"),
        ("processes:0", "no executor"),
        ("slurm", "no executor"),
        ("dask:tcp://127.0.0.1:1", "no scheduler of Dask"),
    ],
)
def test_an_engine_that_is_not_there_is_one_line(engine: str, message: str) -> None:
    quick: Any = contextlib.nullcontext()
    if engine.startswith("dask"):
        dask = pytest.importorskip("dask", reason="Dask's scheduler is not installed")
        quick = dask.config.set({"distributed.comm.timeouts.connect": "1s"})
    with quick, pytest.raises(LandscapeError, match=message), executors.opened(engine):
        pass
