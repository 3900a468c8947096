"""A short, seeded run of the checkpoint fuzzer; the long one is ``python -m benchmarks.fuzz_checkpoints``."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def fuzzer():
    specification = importlib.util.spec_from_file_location(
        "fuzz_checkpoints", ROOT / "benchmarks" / "fuzz_checkpoints.py"
    )
    module = importlib.util.module_from_spec(specification)
    sys.modules["fuzz_checkpoints"] = module
    specification.loader.exec_module(module)
    yield module
    del sys.modules["fuzz_checkpoints"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits and peaks of memory are read from /proc")
def test_nothing_runs_and_every_file_is_loaded_or_refused_in_one_line(fuzzer, tmp_path):
    counts, complaints = fuzzer.run(120, 7, tmp_path)
    assert not complaints
    assert sum(each["refused"] for each in counts.values()) > 80
    assert sum(each["loaded"] for each in counts.values()) > 2
    assert counts["pickles that execute"]["refused"] == 15


@pytest.mark.skipif(sys.platform != "linux", reason="limits and peaks of memory are read from /proc")
def test_the_fuzzer_notices(fuzzer, tmp_path):
    """A worker in which files do run, ask for memory, hang, or fail otherwise."""
    (tmp_path / "sitecustomize.py").write_text("")
    script = tmp_path / "unsafe.py"
    script.write_text(
        "import sys, pickle, time\nsys.path.insert(0, sys.argv[1])\n"
        "from benchmarks import fuzz_checkpoints as fuzz\n"
        "def load(path, model):\n"
        "    name = path.name\n"
        "    if name.startswith('hang'):\n        time.sleep(60)\n"
        "    if name.startswith('crash'):\n        import os\n        os._exit(3)\n"
        "    if name.startswith('grew'):\n        return 'loaded', str(len(bytearray(3 * 2**29))), ''\n"
        "    if name.startswith('ran'):\n        pickle.loads(path.read_bytes())\n"
        "    return 'loaded', '', ''\n"
        "fuzz.with_errors = load\nfuzz.work()\n"
    )

    class Unsafe(fuzzer.Worker):
        command = (sys.executable, str(script), str(ROOT))

    fuzzer.bases(tmp_path)
    worker = Unsafe(tmp_path)
    worker.load(tmp_path / "own.safetensors", None, limit=120)
    (tmp_path / "ran").write_bytes(b"cposix\nsystem\n(S'true'\ntR.")
    assert "os.system" in str(worker.load(tmp_path / "ran", None)["events"])
    assert worker.load(tmp_path / "grew", None)["grown"] > fuzzer.GIB
    assert worker.load(tmp_path / "crash", None)["outcome"] == "crash"
    assert worker.load(tmp_path / "hang", None, limit=1)["outcome"] == "hang"
    worker.close()
