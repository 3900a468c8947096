from pathlib import Path

import numpy as np
import pytest

from landscape.store.journal import Journal

WORK = {"work": 1}


def piece(number: int) -> dict[str, np.ndarray]:
    return {"values": np.arange(number + 1) / 7, "whole": np.array([number])}


def written(path: Path, count: int = 4) -> bytes:
    with Journal(path, WORK) as journal:
        for number in range(count):
            journal.write(f"piece/{number}", piece(number))
    return path.read_bytes()


def test_pieces_come_back_bit_by_bit_also_while_it_is_written(tmp_path: Path) -> None:
    written(tmp_path / "journal")
    with Journal(tmp_path / "journal", WORK) as journal:
        journal.write("piece/4", piece(4))
        assert len(journal) == 5
        assert "piece/5" not in journal
        for number in range(5):
            found = journal[f"piece/{number}"]
            assert set(found) == {"values", "whole"}
            assert all(np.array_equal(found[name], value) for name, value in piece(number).items())


def test_a_kill_at_any_byte_loses_the_piece_in_flight_alone(tmp_path: Path) -> None:
    content = written(tmp_path / "whole", 3)
    counts = []
    for end in range(len(content) + 1):
        path = tmp_path / "torn"
        path.write_bytes(content[:end])
        with Journal(path, WORK) as journal:
            counts.append(len(journal))
            if end % 50 == 0:
                journal.write("again", piece(1))
                assert np.array_equal(journal["again"]["values"], piece(1)["values"])
    assert counts == sorted(counts)
    assert set(counts) == {0, 1, 2, 3}


@pytest.mark.parametrize("tail", [bytes(64), b"\xff" * 64, b"noise" * 20])
def test_what_a_crash_left_behind_the_last_record_is_dropped(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(written(path) + tail)
    with Journal(path, WORK) as journal:
        assert len(journal) == 4
        journal.write("next", piece(2))
    with Journal(path, WORK) as journal:
        assert len(journal) == 5


def test_other_work_at_the_same_place_is_not_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    written(path.with_name("journal.1"))
    with Journal(path, {"work": 2}) as journal:
        assert len(journal) == 0
    written(path)
    with Journal(path, {"work": 2}) as journal:
        assert len(journal) == 0


def test_processes_read_what_the_others_wrote(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path, WORK) as first, Journal(path, WORK, process=1) as second:
        first.write("a", piece(1))
        second.write("b", piece(2))
    with Journal(path, WORK) as journal:
        assert len(journal) == 2
        journal.remove()
    assert not list(tmp_path.iterdir())
