"""A short, seeded run of ``benchmarks/fuzz_data.py``: every kind of damage once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="each case runs in a forked process")
def test_no_damaged_file_ends_in_a_traceback_a_hang_gigabytes_or_code_that_runs(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(ROOT / "benchmarks" / "fuzz_data.py"), "--cases", "30", "--seed", "7"]
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stdout + run.stderr
    rows = [line.split() for line in run.stdout.splitlines()[1:]]
    assert [row[0] for row in rows] == ["npz", "cifar", "folder", "csv", "directions"]
    for _, cases, read, refused, *wrong in rows:
        assert int(read) + int(refused) == int(cases) == 30
        assert int(read) > 0
        assert wrong == ["0"] * 4
    assert not list(tmp_path.iterdir())
