"""The authors' CSV files, by position."""

import time
from pathlib import Path

import numpy as np
import pytest

from landscape.errors import LandscapeError
from landscape.store.published import read_corrupted, read_surface

PAPER = Path(__file__).parents[2] / "shared" / "paper"
needs_paper = pytest.mark.skipif(not PAPER.is_dir(), reason="the published files are not at hand")


def write(path: Path, rows: list[list[object]]) -> Path:
    path.write_text("\n".join(",".join(map(str, row)) for row in rows) + "\n")
    return path


def surface_rows(count: int = 16) -> list[list[object]]:
    """A 2 x 3 surface whose every value says its row and column; alpha runs first."""
    before = 2 if count == 16 else 4
    rows: list[list[object]] = []
    for row, (alpha, beta) in enumerate((alpha, beta) for beta in (-0.1, 0.0, 0.1) for alpha in (-1.0, 1.0)):
        line: list[object] = [100 * row + column for column in range(count)]
        line[:2] = [alpha, beta]
        line[before + 1 : before + 3] = [0.0, 0.9]
        rows.append(line)
    return rows


@pytest.mark.parametrize(("count", "before"), [(16, 2), (19, 4)])
def test_columns_land_under_their_names(tmp_path: Path, count: int, before: int) -> None:
    surface = read_surface(write(tmp_path / "surface.csv", surface_rows(count)))
    assert dict(surface.sizes) == {"alpha": 2, "beta": 3}
    third = surface.sel(alpha=-1.0, beta=0.0)
    assert float(third["nll"]) == 200 + before
    assert float(third["accuracy"]) == 200 + before + 3
    assert float(third["uncertain_90"]) == 200 + before + 6
    assert float(third["ece"]) == 200 + before + 13
    assert ("signed_ece" in surface) == ("l1" in surface) == (count == 19)


def test_refuses_other_files(tmp_path: Path) -> None:
    rows = surface_rows()
    with pytest.raises(LandscapeError, match=r"15 and 16 columns, not of 16 or 19"):
        read_surface(write(tmp_path / "short.csv", [*rows[:-1], rows[-1][:-1]]))
    with pytest.raises(LandscapeError, match="5 rows for a grid of 2 x 3"):
        read_surface(write(tmp_path / "missing.csv", rows[:-1]))
    with pytest.raises(LandscapeError, match="severity holds no number"):
        read_corrupted(write(tmp_path / "text.csv", [["fog", *rows[0][1:]]]))
    shifted = [[*row[:3], row[2], *row[3:-1]] for row in rows]
    with pytest.raises(LandscapeError, match="not as published"):
        read_surface(write(tmp_path / "shifted.csv", shifted))
    with pytest.raises(LandscapeError, match="no file"):
        read_surface(tmp_path / "none.csv")


def test_refuses_bytes_and_coordinates_that_are_none(tmp_path: Path) -> None:
    path = write(tmp_path / "surface.csv", surface_rows())
    path.write_bytes(path.read_bytes().replace(b"0.0", b"\xff.0", 1))
    with pytest.raises(LandscapeError, match="not a readable table"):
        read_surface(path)
    for value in ("nan", "inf", "1e308"):
        rows = surface_rows()
        rows[1][0] = value
        with pytest.raises(LandscapeError, match="row 2 is not a coordinate"):
            read_surface(write(tmp_path / "surface.csv", rows))
    path.write_text('"' + "x" * 200_000 + '",1\n')
    with pytest.raises(LandscapeError, match="field larger"):
        read_surface(path)


def test_as_many_coordinates_as_rows_are_refused_at_once(tmp_path: Path) -> None:
    tail = surface_rows()[0][2:]
    path = write(tmp_path / "surface.csv", [[row / 6e4, -row / 6e4, *tail] for row in range(60_000)])
    started = time.process_time()
    with pytest.raises(LandscapeError, match="60000 rows for a grid of 60000 x 60000"):
        read_surface(path)
    assert time.process_time() - started < 5


def test_rows_in_any_order_fill_the_same_grid(tmp_path: Path) -> None:
    rows = surface_rows()
    whole = read_surface(write(tmp_path / "a.csv", rows))
    assert read_surface(write(tmp_path / "b.csv", rows[::-1]))["nll"].equals(whole["nll"])
    with pytest.raises(LandscapeError, match="missing or repeated"):
        read_surface(write(tmp_path / "c.csv", [*rows[:-1], rows[0]]))


@needs_paper
def test_published_surfaces() -> None:
    surface = read_surface(PAPER / "cifar100_resnet_mcdo_18_x10_losslandscape.csv")
    assert dict(surface.sizes) == {"alpha": 21, "beta": 21}
    # PAPER section 6.
    assert float(surface["nll"].min()) == pytest.approx(0.01233, abs=5e-6)
    assert float(surface["nll"].max()) == pytest.approx(0.02248, abs=5e-6)
    follow_up = read_surface(PAPER / "cifar100_resnet_dnn_50_losslandscape.csv")
    assert "l2" in follow_up
    assert np.isinf(follow_up["nll"]).any()


@needs_paper
@pytest.mark.parametrize(("name", "corruptions"), [("cifar10", 15), ("cifar100", 19)])
def test_published_corrupted(name: str, corruptions: int) -> None:
    table = read_corrupted(PAPER / f"{name}_alexnet_dnn_corrupted.csv")
    assert dict(table.sizes) == {"severity": 5, "corruption": corruptions}
    assert bool((table["accuracy"].sel(severity=1) > table["accuracy"].sel(severity=5)).mean() > 0.9)
    assert bool(((table["ece"] >= 0) & (table["ece"] < 1)).all())
