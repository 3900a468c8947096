"""Kept files that were damaged: no number changes in silence, nothing hangs, nothing is a traceback."""

import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import xarray

from landscape.errors import LandscapeError
from landscape.store import cli as check
from landscape.store import files, result


def measured() -> xarray.Dataset:
    values = np.random.default_rng(0).normal(size=(4, 3))
    return xarray.Dataset(
        {"loss": (("alpha", "beta"), values), "name": ("alpha", list("abcd"))}, attrs={"key": "k", "seconds": 1.5}
    )


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Some bits flipped, cut off, a block of zeros, parts exchanged, or noise behind the end."""
    kind = rng.randrange(5)
    made = bytearray(content)
    if kind == 0:
        for _ in range(rng.choice((1, 1, 3))):
            made[rng.randrange(len(made))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del made[rng.randrange(len(made)) :]
    elif kind == 2:
        start = rng.randrange(len(made))
        made[start : start + 512] = bytes(len(made[start : start + 512]))
    elif kind == 3:
        a, b = sorted(rng.sample(range(0, len(made), 16), 2))
        made = made[:a] + made[b : b + 64] + made[a + 64 : b] + made[a : a + 64] + made[b + 64 :]
    else:
        made += rng.randbytes(rng.randrange(1, 200))
    return bytes(made)


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes: the disk is full there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_result_is_one_file_that_other_readers_open(tmp_path: Path) -> None:
    path = result.save(measured(), tmp_path / "r.nc")
    assert xarray.load_dataset(path).identical(result.load(path))
    assert result.load(path).identical(measured())
    assert list(tmp_path.iterdir()) == [path]


def test_damaged_results_are_refused_before_they_are_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = result.save(measured(), tmp_path / "r.nc")
    content, rng = path.read_bytes(), random.Random(0)
    monkeypatch.setattr("xarray.load_dataset", lambda *_, **__: pytest.fail("parsed"))
    for _ in range(300):
        broken = damaged(content, rng)
        if broken == content:
            continue
        path.write_bytes(broken)
        with pytest.raises(files.DamagedFile, match=r"(damaged|checksum).*: measure again"):
            result.load(path)


def test_a_damaged_cached_result_is_no_answer_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = result.save(measured(), tmp_path / "r.nc")
    assert result.cached(path, "other") is None
    assert not caplog.records
    known = result.cached(path, "k")
    assert known is not None
    assert known.identical(measured())
    content = bytearray(path.read_bytes())
    content[1000] ^= 4
    path.write_bytes(content)
    assert result.cached(path, "k") is None
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} is damaged (its content does not match its checksum): it is measured again"
    ]


def test_a_result_without_a_checksum_is_refused_until_it_is_given_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "old.nc"
    measured().to_netcdf(path, engine="h5netcdf")
    with pytest.raises(files.DamagedFile, match=r"no checksum.*landscape.store --seal"):
        result.load(path)
    with pytest.raises(LandscapeError, match="no checksum"):
        check.main([str(path)])
    assert check.main(["--seal", str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 whole, 0 refused, 1 checksums added"
    assert result.load(path).identical(measured())


def test_a_listing_tells_damage_too(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    facts = {"entries": [{"seed": 0, "ratio": 0.1, "gap": float("nan")}], "name": "ü"}
    files.write_json(path, facts)
    assert str(files.read_json(path)) == str(facts)
    content, rng = path.read_bytes(), random.Random(1)
    changed = 0
    for _ in range(300):
        path.write_bytes(damaged(content, rng))
        try:
            assert str(files.read_json(path)) == str(facts)
        except files.DamagedFile:
            changed += 1
    assert changed > 250


def test_a_full_disk_is_one_line_at_every_size_and_leaves_nothing(tmp_path: Path) -> None:
    whole = len(result.save(measured(), tmp_path / "whole.nc").read_bytes())
    folder = tmp_path / "full"
    for size in range(0, whole, 97):
        with disk_of(size), pytest.raises(LandscapeError, match=r"cannot write .*r\.nc: .*free space"):
            result.save(measured(), folder / "r.nc")
        assert list(folder.iterdir()) == []
    with disk_of(whole):
        result.save(measured(), folder / "r.nc")
    assert result.load(folder / "r.nc").identical(measured())
