"""Killed at any product, a spectrum goes on from there to the same bits."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from nets_for_tests import small_images, small_net
from torch import Tensor

from landscape import hessian
from landscape.compute.progress import Progress
from landscape.compute.randomness import generator
from landscape.eigen import dense, spectral_density
from landscape.errors import LandscapeError
from landscape.hessian import journaled_operator
from landscape.hessian.journaled_operator import JournaledOperator
from landscape.objective import CurvatureOperator, Objective
from landscape.store.journal import Journal


class Counted:
    """A matrix that counts its products and breaks before the one numbered `until`."""

    def __init__(self, matrix: Tensor, until: int | None = None) -> None:
        self.inner = dense(matrix)
        self.size, self.dtype, self.device = self.inner.size, self.inner.dtype, self.inner.device
        self.count = 0
        self.until = until

    def __call__(self, vectors: Tensor) -> Tensor:
        if self.count == self.until:
            raise KeyboardInterrupt
        self.count += 1
        return self.inner(vectors)


@pytest.fixture
def matrix() -> Tensor:
    factor = torch.randn(60, 60, generator=generator(0, "replay"), dtype=torch.float64)
    return factor + factor.T


@pytest.fixture
def every_product_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journaled_operator, "WORTH_KEEPING", 0.0)


def density(operator: Counted, path: Path) -> tuple[np.ndarray, int]:
    with Journal(path, {"matrix": 0}) as journal:
        source = JournaledOperator(operator, journal)
        nodes = spectral_density(source, probes=2, steps=20).nodes
        journal.remove()
    return nodes, source.restored


@pytest.mark.usefixtures("every_product_is_kept")
def test_broken_off_twice_it_goes_on_to_the_same_bits(tmp_path: Path, matrix: Tensor) -> None:
    whole, _ = density(Counted(matrix), tmp_path / "whole")
    assert not (tmp_path / "whole").exists()
    path = tmp_path / "products"
    for until in (7, 11):
        with pytest.raises(KeyboardInterrupt):
            density(Counted(matrix, until), path)
    # A torn record, as a kill in the middle of a write leaves it.
    path.write_bytes(path.read_bytes()[:-5])
    last = Counted(matrix)
    found, replayed = density(last, path)
    assert replayed == 17
    assert last.count == 40 - 17
    assert np.array_equal(found, whole)
    assert not path.exists()


@pytest.mark.usefixtures("every_product_is_kept")
def test_products_of_something_else_and_damaged_ones_are_taken_again(tmp_path: Path, matrix: Tensor) -> None:
    path = tmp_path / "products"
    with pytest.raises(KeyboardInterrupt):
        density(Counted(matrix, 10), path)
    content = bytearray(path.read_bytes())
    content[300] ^= 1  # in the first product
    path.write_bytes(content)
    with Journal(path, {"matrix": 0}) as journal:
        assert len(journal) == 0
    with Journal(path, {"matrix": 0}) as journal:
        JournaledOperator(Counted(matrix), journal)(torch.zeros(60, dtype=torch.float64))
        other = JournaledOperator(Counted(matrix), journal)
        assert torch.equal(other(torch.ones(60, dtype=torch.float64)), matrix @ torch.ones(60, dtype=torch.float64))
        assert other.restored == 0


def test_cheap_products_leave_no_file(tmp_path: Path, matrix: Tensor) -> None:
    with pytest.raises(KeyboardInterrupt):
        density(Counted(matrix, 5), tmp_path / "products")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LandscapeError, match=r"cannot write .*choose another"):
        Journal(tmp_path / "file" / "products", {})


@pytest.mark.usefixtures("every_product_is_kept")
def test_a_spectrum_whose_products_are_kept_is_the_same(tmp_path: Path) -> None:
    function = Objective(small_net(), small_images())
    plain = hessian.spectrum(function, top=2, probes=1, steps=5)
    with Journal(tmp_path / "products", {}) as journal:
        kept = hessian.spectrum(function, top=2, probes=1, steps=5, journal=journal)
        assert len(journal) == kept.attrs["products"]
    for name in ("eigenvalue", "trace", "node"):
        assert np.array_equal(plain[name].values, kept[name].values)


@pytest.mark.usefixtures("every_product_is_kept")
def test_a_killed_spectrum_tells_the_products_and_seconds_of_all_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = Objective(small_net(), small_images())
    whole = hessian.spectrum(function, top=2, probes=1, steps=5)
    path = tmp_path / "products"
    slow = CurvatureOperator.__call__

    def broken(operator: CurvatureOperator, vectors: Tensor) -> Tensor:
        if operator.products >= 10:
            raise KeyboardInterrupt
        time.sleep(0.05)
        return slow(operator, vectors)

    monkeypatch.setattr(CurvatureOperator, "__call__", broken)
    with pytest.raises(KeyboardInterrupt), Journal(path, {}) as journal:
        hessian.spectrum(function, top=2, probes=1, steps=5, journal=journal)
    monkeypatch.setattr(CurvatureOperator, "__call__", slow)
    with Journal(path, {}) as journal:
        found = hessian.spectrum(function, top=2, probes=1, steps=5, journal=journal)
    assert found.attrs["products"] == whole.attrs["products"]
    assert found.attrs["seconds_before"] >= 10 * 0.05
    assert np.array_equal(found["node"].values, whole["node"].values)


def test_what_an_earlier_run_has_finished_says_nothing_of_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Progress(10, "products") as bar:
        for _ in range(5):
            bar.resumed(1)
        time.sleep(0.25)
        bar.update()
        assert bar.done == 6
        facts = bar._bar.format_dict
    # One product took a quarter of a second.
    left = (facts["total"] - facts["n"]) / (facts["rate"] or (facts["n"] - facts["initial"]) / facts["elapsed"])
    assert left > 0.9
    assert " 6/10 " in capsys.readouterr().err
