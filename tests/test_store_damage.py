"""Kept files that were damaged: no number changes in silence, nothing hangs, nothing is a traceback."""

import gzip
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray
from nets_for_tests import small_images, small_net

from landscape.eigen import dense
from landscape.errors import LandscapeError
from landscape.hessian import journaled_operator
from landscape.objective import Objective
from landscape.store import cli as check, files, journal, result
from landscape.store.journal import Journal
from landscape.store.pieces import pieces
from landscape.surface import saved_directions
from landscape.surface.directions import random_directions


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


def test_a_compressed_result_unpacks_to_the_plain_one(tmp_path: Path) -> None:
    plain, packed = (result.save(measured(), tmp_path / name) for name in ("r.nc", "r.nc.gz"))
    assert result.load(packed).identical(measured())
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    assert packed.stat().st_size < plain.stat().st_size / 3
    assert check.main([str(packed), "--seal"]) == 0


def test_a_damaged_compressed_result_is_refused_or_was_damaged_where_nothing_stands(tmp_path: Path) -> None:
    path = result.save(measured(), tmp_path / "r.nc.gz")
    content, rng, refused = path.read_bytes(), random.Random(0), 0
    truth = bytes(files.read_sealed(path))
    for _ in range(300):
        path.write_bytes(damaged(content, rng))
        try:
            # The gzip header has a time and a system in it, which nothing reads.
            assert files.read_sealed(path) == truth
        except files.DamagedFile:
            refused += 1
    assert refused > 280


def test_a_result_of_nothing_but_zeros_is_read_again(tmp_path: Path) -> None:
    zeros = xarray.Dataset({"loss": ("alpha", np.zeros(2**20))})
    assert result.load(result.save(zeros, tmp_path / "r.nc.gz")).identical(zeros)


def test_a_small_compressed_file_that_claims_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.nc.gz"
    path.write_bytes(gzip.compress(bytes(50 * 2**20)))
    with pytest.raises(files.DamagedFile, match="unpacks to over 100 times its size"):
        result.load(path)


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


WORK = {"key": "0123456789ab"}
KEYS = [f"cell/{number}" for number in range(6)]


def cell(key: str) -> dict[str, np.ndarray]:
    number = int(key.partition("/")[2])
    return {"loss": np.random.default_rng(number).normal(size=3), "count": np.array([number])}


def same(found: dict[str, np.ndarray], key: str) -> bool:
    return set(found) == {"loss", "count"} and all(np.array_equal(found[name], cell(key)[name]) for name in found)


def of_journal(path: Path) -> bool:
    """Whether the work done with a journal gives its true numbers."""
    with Journal(path, WORK) as kept:
        found = dict(pieces(KEYS, cell, journal=kept, what="cells"))
    return sorted(found) == KEYS and all(same(dict(found[key]), key) for key in KEYS)


def records(content: bytes) -> list[bytes]:
    """Header and pieces of a journal, each with its frame."""
    parts = []
    while content:
        length = 40 + int.from_bytes(content[:8], "little")
        parts.append(content[:length])
        content = content[length:]
    return parts


def test_no_damaged_journal_gives_another_number(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "journal"
    assert of_journal(path)
    content, rng = path.read_bytes(), random.Random(2)
    with Journal(tmp_path / "other", {"key": "other"}) as other:
        for key in KEYS:
            other.write(key, cell("cell/99"))
    foreign = records((tmp_path / "other").read_bytes())
    for attempt in range(120):
        header, *parts = records(content)
        kind = attempt % 4
        if kind == 0:  # records in another order, some twice, some lost
            broken = header + b"".join(rng.choice(parts) for _ in range(rng.randrange(9)))
        elif kind == 1:  # whole records of other work
            parts.insert(rng.randrange(len(parts)), rng.choice(foreign[1:]))
            broken = rng.choice((header, header, foreign[0])) + b"".join(parts)
        else:
            broken = damaged(content, rng)
        path.write_bytes(broken)
        assert of_journal(path), attempt
        assert path.read_bytes()[: len(header)] == header
    assert any("measured again" in record.getMessage() for record in caplog.records)


def test_no_damaged_product_is_taken_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journaled_operator, "WORTH_KEEPING", 0.0)
    matrix = torch.arange(8, dtype=torch.float64).outer(torch.arange(8, dtype=torch.float64)).cos()
    vectors = torch.eye(8, dtype=torch.float64)

    def products(path: Path) -> torch.Tensor:
        with Journal(path, WORK) as kept:
            operator = journaled_operator.JournaledOperator(dense(matrix), kept)
            return torch.stack([operator(vectors[place]) for place in range(8)])

    path, rng = tmp_path / "products", random.Random(3)
    truth = products(path)
    content = path.read_bytes()
    for _ in range(60):
        header, *parts = records(content)
        rng.shuffle(parts)
        path.write_bytes(damaged(content, rng) if rng.random() < 0.7 else header + b"".join(parts[:5]))
        assert torch.equal(products(path), truth)


def test_damaged_directions_are_refused(tmp_path: Path) -> None:
    objective = Objective(small_net(), small_images())
    drawn = random_directions(objective, 2, seed=1)
    path = saved_directions.save(drawn, objective, tmp_path / "axes.safetensors")
    truth = saved_directions.load(path, objective)
    content, rng, refused = path.read_bytes(), random.Random(4), 0
    for _ in range(100):
        path.write_bytes(damaged(content, rng))
        try:
            found = saved_directions.load(path, objective)
            assert torch.equal(found.vectors, truth.vectors)
            assert (found.kind, found.facts) == (truth.kind, truth.facts)
        except LandscapeError:
            refused += 1
    assert refused > 80


def test_a_full_disk_leaves_a_journal_of_whole_pieces(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    of_journal(path)
    content = path.read_bytes()
    ends = np.cumsum([len(part) for part in records(content)])
    path.unlink()
    for size in range(0, len(content), 53):
        with disk_of(size), pytest.raises(LandscapeError, match=r"cannot write the journal .*free"):
            of_journal(path)
        whole = int(max([end for end in ends[1:] if end <= size], default=0))
        assert (path.read_bytes() if path.exists() else b"") == content[:whole]
        path.unlink(missing_ok=True)
    with disk_of(len(content) // 2), pytest.raises(LandscapeError):
        of_journal(path)
    assert of_journal(path)


def test_two_runs_of_the_same_work_share_no_file(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path, WORK) as paused:
        paused.write(KEYS[0], cell(KEYS[0]))
        with Journal(path, WORK) as first:
            assert first.path != paused.path
            assert same(first[KEYS[0]], KEYS[0])
            first.write(KEYS[1], cell(KEYS[1]))
            first.remove()
        # What the paused one has written is not taken from it.
        assert list(tmp_path.iterdir()) == [path]
        paused.write(KEYS[2], cell(KEYS[2]))
        assert all(same(paused[key], key) for key in (KEYS[0], KEYS[2]))
        paused.remove()
    assert list(tmp_path.iterdir()) == []


def test_pieces_stay_readable_when_another_run_has_finished_and_deleted_them(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    of_journal(path)
    with Journal(path, WORK) as first:
        second = Journal(path, WORK)
        first.remove()
        assert same(second[KEYS[3]], KEYS[3])
        second.remove()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_leaves_is_swept_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    code = "import pathlib, time\nfrom landscape.store import files\n"
    code += "kept = files._temporary(pathlib.Path('.'))\nprint(kept[0], flush=True)\ntime.sleep(60)"
    root = str(Path(__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        temporary = tmp_path / process.stdout.readline().strip()
        files.write_whole(tmp_path / "a", b"a")
        assert temporary.exists()
        process.kill()
    (tmp_path / ".somebody-elses.tmp").touch()
    files.write_whole(tmp_path / "a", b"a")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".somebody-elses.tmp", "a"]


def test_a_journal_left_behind_a_whole_result_is_deleted_and_one_that_is_newer_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    of_journal(path)
    journal.remove(path, before=path.stat().st_mtime)
    assert path.exists()
    journal.remove(path, before=time.time() + 1)
    assert not path.exists()


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_only_regular_files_are_written_over(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.png"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path = Path("/dev/null")
    before = path.stat().st_mode
    for write in (
        lambda: files.write_whole(path, b""),
        lambda: result.save(measured(), path),
        lambda: Journal(path, {}),
    ):
        with pytest.raises(LandscapeError, match=r"cannot write .*give a file name"):
            write()
    assert path.stat().st_mode == before


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_files_are_for_those_that_the_users_mask_lets_read(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        files.write_whole(tmp_path / "file", b"content")
        with Journal(tmp_path / "journal", {}) as pieces_:
            pieces_.write("a", {"x": np.zeros(1)})
    finally:
        os.umask(before)
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("file", "journal")} == {0o666 & ~mask}


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "file")
    files.write_whole(tmp_path / "link", b"content")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "file").read_bytes() == b"content"


@pytest.mark.parametrize("name", ["n" * 250, "é" * 120, os.fsdecode(b"\xff\xfe" * 100)])
def test_long_names_are_shortened_and_stay_apart(tmp_path: Path, name: str) -> None:
    names = [files.file_name(f"{name}{key}", ".nc") for key in ("-aaaaaaaaaaaa", "-bbbbbbbbbbbb")]
    assert len(set(names)) == 2
    assert all(len(os.fsencode(made)) <= 200 and made.endswith(".nc") for made in names)
    whole = tmp_path / f"{name[: 250 if name.isascii() else 120]}.nc"
    result.save(measured(), whole)
    assert result.load(whole).identical(measured())
    assert files.file_name("short", ".nc") == "short.nc"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_output_that_cannot_be_written_is_one_line() -> None:
    """Text that stays in the output's buffer until the end, and text that is beyond it."""
    code = (
        "import sys, types\nfrom landscape.command import launch\n"
        "sys.modules['toy'] = types.SimpleNamespace(main=lambda argv: print('text' * int(argv[0])) or 0)\nlaunch('toy')"
    )
    for length in ("1", "100000"):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-c", code, length],
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert done.returncode == 2
        assert done.stderr == "error: cannot write standard output: No space left on device; free some space\n"
