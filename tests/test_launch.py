"""How a command ends: in one line and with the status that a shell expects, whatever happens around it."""

import json
import os
import signal
import subprocess
import sys
import time
from math import inf, nan
from pathlib import Path

import pytest

from landscape import command
from landscape.compute import distributed, progress
from landscape.compute.progress import Progress
from landscape.errors import LandscapeError

ROOT = Path(__file__).parents[1]
# A command of our own: it imports nothing slow, so that what is seen is the launcher.
MAIN = """
import sys, time
def main(argv):
    {body}
    return 0
"""


def start(tmp_path: Path, body: str, **environment: str) -> subprocess.Popen[str]:
    (tmp_path / "toy.py").write_text(MAIN.format(body=body))
    code = "from landscape.command import launch; launch('toy')"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


WAIT = "print('ready', flush=True)\n    time.sleep(30)"
FAREWELL = "what was finished is saved; the same command resumes from there"


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_is_one_line_and_its_status(tmp_path: Path, number: int, status: int, word: str) -> None:
    with start(tmp_path, WAIT) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
    assert process.returncode == status
    assert said == f"{word}: {FAREWELL}\n"


def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path) -> None:
    stubborn = "\n    ".join(
        [
            "try:",
            "    print('ready', flush=True)",
            "    time.sleep(30)",
            "finally:",
            "    print('closing', flush=True)",
            "    time.sleep(30)",
        ]
    )
    with start(tmp_path, stubborn) as process:
        assert process.stdout is not None
        for line in ("ready\n", "closing\n"):
            assert process.stdout.readline() == line
            process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert said == f"interrupted: {FAREWELL}\n"


def test_ctrl_c_while_modules_are_imported_is_one_line(tmp_path: Path) -> None:
    # What a library makes of an interruption in its own import: here it takes it for a missing option.
    (tmp_path / "slow.py").write_text(
        "import time\nprint('ready', flush=True)\ntry:\n    time.sleep(30)\nexcept BaseException:\n    time.sleep(30)\n"
    )
    with start(tmp_path, "import slow") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert said == f"interrupted: {FAREWELL}\n"


def test_an_interruption_that_a_library_turns_into_an_error_stays_one(tmp_path: Path) -> None:
    wrapped = "\n    ".join(
        [
            "try:",
            "    print('ready', flush=True)",
            "    time.sleep(30)",
            "except KeyboardInterrupt:",
            "    raise OSError",
        ]
    )
    with start(tmp_path, wrapped) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert said == f"interrupted: {FAREWELL}\n"


@pytest.mark.parametrize(
    ("body", "status"),
    [("print('x' * 100_000)", 141), ("[print('x') for _ in range(100_000)]", 141), ("print('x')", 141)],
)
def test_a_reader_that_leaves_is_no_error(tmp_path: Path, body: str, status: int) -> None:
    process = start(tmp_path, f"time.sleep(0.2); {body}")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(timeout=20) == status
    assert said == ""
    process.stderr.close()


def test_a_full_disk_behind_standard_output_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(MAIN.format(body="print('x')"))
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", "from landscape.command import launch; launch('toy')"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == "error: cannot write standard output: No space left on device; free some space\n"


def test_a_full_disk_behind_standard_error_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(MAIN.format(body="print('warning', file=sys.stderr, flush=True); print('table')"))
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", "from landscape.command import launch; launch('toy')"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, "table\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "utf-8"])
def test_characters_that_a_terminal_lacks_are_written_in_ascii(tmp_path: Path, encoding: str) -> None:
    process = start(tmp_path, r"print('1 ± 2', 'α', '\udcff', '字')", PYTHONIOENCODING=encoding)
    assert process.stdout is not None
    shown = process.stdout.buffer.read().decode(encoding)  # type: ignore[attr-defined]
    assert process.communicate()[1] == ""
    assert process.returncode == 0
    expected = {"ascii": r"1 +- 2 alpha \udcff \u5b57", "utf-8": "1 ± 2 α \\udcff 字"}
    if encoding in expected:
        assert shown == expected[encoding] + "\n"
    assert r"\udcff" in shown


def test_closed_streams_take_no_file_s_place(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(
        MAIN.format(body="file = open('result', 'w'); print('table'); print('warning', file=sys.stderr); file.close()")
    )
    code = "from landscape.command import launch; launch('toy')"
    done = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -c "{code}" >&- 2>&-'],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        check=False,
    )
    assert done.returncode == 0
    assert (tmp_path / "result").read_text() == ""


def test_json_is_strict_and_says_what_is_missing() -> None:
    facts = {"loss": [1.5, nan, [inf]], "low": [[nan], [1, nan]], "deep": [{"x": -inf, "y": 2}], "name": "NaN"}
    text = command.to_strict_json(facts)
    read = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert read["loss"] == [1.5, None, [None]]
    assert read["low"] == [[None], [1, None]]
    assert read["deep"] == [{"x": None, "y": 2}]
    missing = {"loss[1]": "NaN", "loss[2][0]": "Infinity", "low": "NaN", "deep[0].x": "-Infinity"}
    assert read["not_finite"] == missing
    assert "not_finite" not in json.loads(command.to_strict_json({"x": 1.0}))


@pytest.mark.parametrize("value", ["x", "-1", "0", "1.5"])
def test_a_world_size_that_is_no_number_is_one_line(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("WORLD_SIZE", value)
    with pytest.raises(LandscapeError, match="WORLD_SIZE"):
        distributed.start(torch.device("cpu"))


def test_a_world_without_a_meeting_point_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(LandscapeError, match="cannot join the 2 processes"):
        distributed.start(torch.device("cpu"))


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Progress(10, "spectrum", unit="product", done=2) as bar:
        for _ in range(4):
            now[0] += progress.EVERY / 2
            bar.update(loss=0.5)
    assert capsys.readouterr().err.splitlines() == [
        "spectrum: 4/10 products, 30 s so far, 90 s left, loss 0.5",
        "spectrum: 6/10 products, 60 s so far, 60 s left, loss 0.5",
    ]
    with Progress(10, "spectrum", quiet=True) as bar:
        now[0] += 2 * progress.EVERY
        bar.update()
    assert capsys.readouterr().err == ""
