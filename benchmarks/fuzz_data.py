"""Damaged and hostile data files: no traceback, no hang, no memory beyond what they hold, no code that runs.

    python benchmarks/fuzz_data.py [--cases 300] [--seed 0] [--only npz,cifar,folder,csv,directions]

Each case is a file (or folder) that was changed in one way, read in a process of its own that has 1 GiB of address
space to spare. What may happen is that it is read, or refused with one line. Eight faults that are planted first must
be noticed, and a valid file of each kind read. Exit status 1 when anything else happened; each such case is named.
"""

import argparse
import io
import os
import platform
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

import fuzz_files
import torch

from landscape import surface  # noqa: F401  loaded before processes are forked
from landscape.errors import LandscapeError

SPARE = 2**30
SECONDS = 30.0
OUTCOMES = ("read", "refused", "traceback", "hang", "over 1 GiB", "code ran")
_STARTS = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "subprocess.Popen",
    "pty.spawn",
    "socket.connect",
)


def judge(use: Callable[[], object], *, canary: Path, on_disk: int = 0, seconds: float = SECONDS) -> tuple[str, str]:
    """What happens when `use` is called in a process of its own: an outcome, and a line about it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _child(use, writing, on_disk)
    os.close(writing)
    said = b""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0 and select.select([reading], [], [], left)[0]:
        part = os.read(reading, 65536)
        if not part:
            break
        said += part
    else:
        os.kill(child, signal.SIGKILL)
        said = b"hang\x00"
    os.close(reading)
    _, status = os.waitpid(child, 0)
    outcome, _, detail = said.decode(errors="replace").partition("\x00")
    if canary.exists() or "code ran" in said.decode(errors="replace"):
        return "code ran", detail
    if outcome not in OUTCOMES:
        return "traceback", f"ended with status {status}"
    return outcome, detail


def _child(use: Callable[[], object], writing: int, on_disk: int) -> None:
    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith(_STARTS) or (event == "import" and arguments[0] == "payload"):
            os.write(writing, f"code ran\x00{event} {arguments}".encode())

    outcome, detail = "read", ""
    try:
        sys.addaudithook(watch)
        with open("/dev/null", "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
            sys.stdout = sys.stderr = nowhere
            before = _address_space()
            resource.setrlimit(resource.RLIMIT_AS, (before + SPARE + 2 * on_disk,) * 2)
            try:
                use()
            except LandscapeError as error:
                outcome, detail = "refused", str(error)
                if "\n" in detail or not detail.isprintable():
                    outcome = "traceback"
                if _wanted_memory(error):
                    outcome = "over 1 GiB"
            except BaseException as error:
                outcome = "over 1 GiB" if _wanted_memory(error) else "traceback"
                detail = traceback.format_exc()[-2000:]
    finally:
        os.write(writing, f"{outcome}\x00{detail}".encode(errors="replace"))
        os._exit(0)


def _wanted_memory(error: BaseException | None) -> bool:
    """Whether memory ran out somewhere on the way to an error, also where that was turned into one line."""
    while error is not None:
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            return True
        error = error.__context__
    return False


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def require_notices(folder: Path) -> None:
    """Check that a traceback, a hang, memory and code are noticed; raises AssertionError."""
    canary = folder / "canary"

    def swallow() -> None:
        try:
            bytearray(2**32)
        except MemoryError:
            raise LandscapeError("too large") from None

    planted: dict[str, list[Callable[[], object]]] = {
        "traceback": [lambda: int("text"), os.abort],
        "hang": [lambda: time.sleep(60)],
        "over 1 GiB": [lambda: bytearray(2**32), swallow, lambda: torch.ones(2**29, dtype=torch.float64)],
        "code ran": [lambda: os.system("true"), canary.touch],
    }
    for expected, uses in planted.items():
        for use in uses:
            found, detail = judge(use, canary=canary, seconds=2.0 if expected == "hang" else SECONDS)
            assert found == expected, f"a planted fault {expected!r} was judged {found!r}: {detail}"
            canary.unlink(missing_ok=True)


def fuzz(name: str, root: Path, cases: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Outcomes of so many cases of a kind by number, and what there is to complain of."""
    kind = fuzz_files.KINDS[name](root)
    require_read(kind, root)
    counts: Counter[str] = Counter()
    complaints = []
    for number in range(cases):
        folder = root / str(number)
        folder.mkdir(parents=True)
        stream = random.Random(f"{seed}-{name}-{number}")
        what, mutate = kind.mutations[number % len(kind.mutations)]
        mutate(folder, stream)
        os.chdir(folder)
        outcome, detail = judge(
            partial(kind.use, folder, stream), canary=folder / fuzz_files.CANARY, on_disk=_size(folder)
        )
        counts[outcome] += 1
        if outcome not in ("read", "refused"):
            complaints.append(f"  {name} {number} ({what}): {outcome}\n{detail}")
        os.chdir(root)
        shutil.rmtree(folder, ignore_errors=True)
    return counts, complaints


def require_read(kind: fuzz_files.Kind, root: Path) -> None:
    """Read a valid file here, so that everything is imported before processes are forked; raises AssertionError."""
    mutate = next(mutate for what, mutate in kind.mutations if what == "valid")
    for number in range(20):
        folder = root / f"valid-{number}"
        folder.mkdir(parents=True)
        stream = random.Random(number)
        mutate(folder, stream)
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                kind.use(folder, stream)
            return
        except LandscapeError:  # not every picture is read with any number of channels
            continue
    raise AssertionError("no valid file was read")


def main() -> int:
    """Run the cases, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=300, metavar="N", help="of each kind (default: 300)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="(default: 0)")
    parser.add_argument("--only", default=",".join(fuzz_files.KINDS), metavar="KIND,...", help="kinds (default: all)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    platform.processor()  # asked by a library, by starting a program; the answer is kept
    root = Path(tempfile.mkdtemp(prefix="fuzz-data-"))
    bad = 0
    print(f"{'kind':<12}{'cases':>8}" + "".join(f"{outcome:>12}" for outcome in OUTCOMES))
    try:
        require_notices(root)
        for name in given.only.split(","):
            counts, complaints = fuzz(name, root / name, given.cases, given.seed)
            bad += len(complaints)
            print(f"{name:<12}{given.cases:>8}" + "".join(f"{counts[outcome]:>12}" for outcome in OUTCOMES), flush=True)
            print("\n".join(complaints), end="\n" if complaints else "", flush=True)
    finally:
        os.chdir("/")
        shutil.rmtree(root, ignore_errors=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
