"""Damage, kills, full disks and rivals: kept files give no wrong number, no traceback and no hang.

    python benchmarks/fuzz_store.py                          # about half an hour on 2 cores
    python benchmarks/fuzz_store.py --only results journals  # damaged files alone: minutes
    python benchmarks/fuzz_store.py --count 20 --kills 4     # a glance

Files are damaged (bits flipped, cut off, zeroed, parts exchanged, records of other work put in) and read again;
commands are killed at random moments, run on disks that are full at every size, and run twice at the same time with
one of them paused. Each line counts what was tried and what went wrong: a number that differs from the undamaged
run's, a traceback, a run longer than a minute, a file left behind. All of it is seeded but for the moments of kills.
The exit status is 1 where anything went wrong.
"""

import argparse
import dataclasses
import faulthandler
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
import xarray

from landscape import checkpoint, command, data, nets
from landscape.eigen import dense
from landscape.errors import LandscapeError
from landscape.hessian import journaled_operator
from landscape.objective import Objective
from landscape.store import files, result
from landscape.store.journal import Journal
from landscape.store.pieces import pieces
from landscape.store.protocol import Protocol
from landscape.surface import saved_directions
from landscape.surface.directions import random_directions

# Seconds after which a run counts as hung.
LONGEST = 60
COMMON = ("net.safetensors", "--quiet", "--device", "cpu")
COMMANDS: dict[str, tuple[str, ...]] = {
    "surface": ("surface", *COMMON, "--points", "5", "--images", "24", "--dropout", "fresh"),
    "spectrum": ("hessian", *COMMON, "--images", "16", "--top", "2", "--probes", "1", "--steps", "6"),
    "mini-batches": ("hessian", *COMMON, "--per-batch", "4", "--batches", "8", "--top", "2"),
    "predictions": ("predictions", *COMMON, "--images", "350", "--passes", "3", "--resamples", "10"),
}


@dataclasses.dataclass
class Count:
    """What was tried, and what went wrong."""

    tried: int = 0
    wrong_numbers: int = 0
    tracebacks: int = 0
    hangs: int = 0
    left_behind: int = 0

    @property
    def wrong(self) -> int:
        """All that went wrong."""
        return self.wrong_numbers + self.tracebacks + self.hangs + self.left_behind


class _Hang(BaseException):
    pass


def _out_of_time(*_: object) -> None:
    raise _Hang


def attempt(count: Count, read: Callable[[], bool]) -> None:
    """Whether `read` gives the right numbers or refuses; it returns whether they are right."""
    count.tried += 1
    signal.signal(signal.SIGALRM, _out_of_time)
    signal.alarm(LONGEST)
    try:
        count.wrong_numbers += not read()
    except LandscapeError as error:
        count.tracebacks += "\n" in str(error)
    except _Hang:
        count.hangs += 1
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        count.tracebacks += 1
    finally:
        signal.alarm(0)


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Some bits flipped, cut off, a block of zeros or noise, parts exchanged, lost or doubled, or noise at the end."""
    kind, made = rng.randrange(8), bytearray(content)
    start = rng.randrange(len(made))
    length = rng.choice((1, 4, 64, 512, 4096))
    if kind <= 1:
        for _ in range(rng.choice((1, 1, 1, 2, 8))):
            made[rng.randrange(len(made))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        del made[start:]
    elif kind == 3:
        made[start : start + length] = bytes(len(made[start : start + length]))
    elif kind == 4:
        made[start : start + length] = rng.randbytes(len(made[start : start + length]))
    elif kind == 5:
        del made[start : start + length]
    elif kind == 6:
        made[start:start] = made[start : start + length]
    else:
        made += rng.randbytes(rng.randrange(1, 200))
    return bytes(made)


def results(count: int, folder: Path, rng: random.Random) -> Count:
    """Damaged cached results: read as what they were, or measured again."""
    values = np.random.default_rng(0).normal(size=(9, 9))
    truth = xarray.Dataset({"loss": (("alpha", "beta"), values)}, {"alpha": np.arange(9.0)}, attrs={"key": "k", "n": 3})
    path = result.save(truth, folder / "r.nc")
    content, counted = path.read_bytes(), Count()
    for _ in range(count):
        path.write_bytes(damaged(content, rng))

        def read() -> bool:
            found = result.cached(path, "k")
            return found is None or found.identical(truth)

        attempt(counted, read)
    return counted


def listings(count: int, folder: Path, rng: random.Random) -> Count:
    """Damaged listings of studies and reports."""
    truth = {"entries": [{"seed": seed, "file": f"results/{seed}.nc", "ratio": seed / 7} for seed in range(9)]}
    files.write_json(folder / "l.json", truth)
    content, counted = (folder / "l.json").read_bytes(), Count()
    for _ in range(count):
        (folder / "l.json").write_bytes(damaged(content, rng))
        attempt(counted, lambda: files.read_json(folder / "l.json") == truth)
    return counted


def _records(content: bytes) -> list[bytes]:
    parts = []
    while content:
        length = 40 + int.from_bytes(content[:8], "little")
        parts.append(content[:length])
        content = content[length:]
    return parts


def _broken(content: bytes, foreign: bytes, rng: random.Random) -> bytes:
    """A damaged journal: its records in another order, with some of other work, or any damage."""
    header, *parts = _records(content)
    if rng.random() < 0.3:
        parts = [rng.choice(parts) for _ in range(rng.randrange(2 * len(parts)))]
        if rng.random() < 0.5:
            parts.insert(rng.randrange(len(parts) + 1), rng.choice(_records(foreign)))
        return (header if rng.random() < 0.8 else _records(foreign)[0]) + b"".join(parts)
    return damaged(content, rng)


def journals(count: int, folder: Path, rng: random.Random) -> Count:
    """Damaged journals: the work done with them gives the numbers it gives without."""
    keys = [f"cell/{number}" for number in range(12)]
    offset = 0

    def compute(key: str) -> dict[str, np.ndarray]:
        number = int(key.partition("/")[2]) + offset
        return {"loss": np.random.default_rng(number).normal(size=5), "number": np.array([number])}

    def work(path: Path, identity: str) -> dict[str, list[list[float]]]:
        with Journal(path, {"key": identity}) as kept:
            found = dict(pieces(keys, compute, journal=kept, what="cells"))
        return {key: [found[key][name].tolist() for name in sorted(found[key])] for key in sorted(found)}

    truth = work(folder / "journal", "a")
    offset = 1000
    work(folder / "foreign", "b")
    offset = 0
    content, foreign, counted = (folder / "journal").read_bytes(), (folder / "foreign").read_bytes(), Count()
    for _ in range(count):
        (folder / "journal").write_bytes(_broken(content, foreign, rng))
        attempt(counted, lambda: work(folder / "journal", "a") == truth)
    return counted


def products(count: int, folder: Path, rng: random.Random) -> Count:
    """Damaged kept products: the operator gives the products that it gives without them."""
    generator = torch.Generator().manual_seed(0)
    halves = [torch.randn(32, 32, generator=generator) for _ in range(2)]
    vectors = torch.randn(10, 32, generator=generator)

    def work(path: Path, half: torch.Tensor, identity: str) -> torch.Tensor:
        with Journal(path, {"key": identity}) as kept:
            operator = journaled_operator.JournaledOperator(dense(half + half.T), kept)
            return torch.stack([operator(vector) for vector in vectors])

    journaled_operator.WORTH_KEEPING = 0.0
    truth = work(folder / "products", halves[0], "a")
    work(folder / "foreign", halves[1], "b")
    content, foreign, counted = (folder / "products").read_bytes(), (folder / "foreign").read_bytes(), Count()
    for _ in range(count):
        (folder / "products").write_bytes(_broken(content, foreign, rng))
        attempt(counted, lambda: torch.equal(work(folder / "products", halves[0], "a"), truth))
    return counted


def directions(count: int, folder: Path, rng: random.Random) -> Count:
    """Damaged files of directions: read as they were saved, or refused."""
    model = nets.build("resnet_mcdo_18", num_classes=10, width=2)
    objective = Objective(model, data.load("digits"), protocol=Protocol(images=8))
    path = saved_directions.save(random_directions(objective, 2), objective, folder / "axes.safetensors")
    truth = saved_directions.load(path, objective)
    content, counted = path.read_bytes(), Count()
    for _ in range(count):
        path.write_bytes(damaged(content, rng))

        def read() -> bool:
            found = saved_directions.load(path, objective)
            return torch.equal(found.vectors, truth.vectors) and (found.kind, found.facts) == (truth.kind, truth.facts)

        attempt(counted, read)
    return counted


def network(folder: Path, file: str = "net.safetensors", name: str = "resnet_mcdo_18") -> None:
    """A small untrained network with dropout."""
    model = {"name": name, "num_classes": 10, "width": 2}
    recipe = {"recipe": "fuzz", "model": model, "data": {"name": "digits"}, "training": {"weight_decay": 5e-4}}
    weights = nets.build(name, num_classes=10, width=2).state_dict()
    checkpoint.save(folder / file, weights, recipe=recipe)


def start(name: str, folder: Path, output: Path, *more: str) -> int:
    """A process of its own that runs a command in a folder; everything is imported already."""
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        os.chdir(folder)
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        if name in COMMANDS:
            faulthandler.dump_traceback_later(LONGEST - 2)
        journaled_operator.WORTH_KEEPING = 0.0
        module, *arguments = COMMANDS.get(name, ("analyses.audit", "--quiet", "--device", "cpu"))
        module = module if "." in module else f"landscape.{module}"
        status = command.run(f"{module}.cli", [*arguments, *more])
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def finish(child: int, count: Count, output: Path, expected: Sequence[int] = (0,), limit: float = LONGEST) -> int:
    """Wait for a process and judge how it ended; its status."""
    started = time.monotonic()
    while time.monotonic() - started < limit:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            text = output.read_text(errors="replace")
            lines = [each for each in text.splitlines() if not each.startswith("warning: ")]
            if code not in expected or "Traceback" in text or (code == 2 and len(lines) != 1):
                print(f"status {code}: {text[-500:]}", file=sys.stderr)
                count.tracebacks += 1
            return code
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    count.hangs += 1
    print(f"hung: {output.read_text(errors='replace')[-2000:]}", file=sys.stderr)
    return -1


def numbers(folder: Path) -> dict[str, xarray.Dataset]:
    """Every result below a folder, without what differs from run to run."""
    found = {}
    for path in sorted(folder.rglob("*.nc")):
        dataset = result.load(path)
        for name in ("seconds", "command", "date"):
            dataset.attrs.pop(name, None)
        found[str(path.relative_to(folder))] = dataset
    return found


def same(found: dict[str, xarray.Dataset], truth: dict[str, xarray.Dataset]) -> bool:
    """Whether two folders hold the same results to the last bit."""
    return set(found) == set(truth) and all(found[name].identical(truth[name]) for name in truth)


def hidden(folder: Path) -> list[Path]:
    """Temporary files and journals below a folder."""
    return [path for path in folder.rglob(".*") if path.is_file()]


def whole(name: str, folder: Path, count: Count) -> tuple[dict[str, xarray.Dataset], float]:
    """The results of an undisturbed run, and its seconds."""
    folder.mkdir()
    network(folder)
    started = time.monotonic()
    finish(start(name, folder, folder / "output"), count, folder / "output")
    return numbers(folder), time.monotonic() - started


def kills(name: str, runs: int, folder: Path, rng: random.Random) -> Count:
    """A command killed at random moments, three times each run, then run to its end."""
    count = Count()
    truth, seconds = whole(name, folder / "whole", count)
    for run in range(runs):
        place = folder / f"run{run}"
        place.mkdir()
        shutil.copy(folder / "whole" / "net.safetensors", place)
        for _ in range(3):
            child = start(name, place, place / "output")
            time.sleep(rng.uniform(0, seconds))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            count.tried += 1
        finish(start(name, place, place / "output"), count, place / "output")
        # Answered from what is kept; what a kill left behind the whole result goes.
        finish(start(name, place, place / "output"), count, place / "output")
        count.wrong_numbers += not same(numbers(place), truth)
        count.left_behind += len(hidden(place))
        shutil.rmtree(place)
    return count


def rivals(name: str, runs: int, folder: Path, rng: random.Random) -> Count:
    """The same command twice at once, the second paused while the first finishes; both draw to one picture."""
    count = Count()
    truth, seconds = whole(name, folder / "whole", count)
    for run in range(runs):
        place = folder / f"run{run}"
        place.mkdir()
        shutil.copy(folder / "whole" / "net.safetensors", place)
        plot = ("--plot", "same.png")
        first = start(name, place, place / "output1", *plot)
        time.sleep(rng.uniform(0, seconds / 4))
        second = start(name, place, place / "output2", *plot)
        time.sleep(rng.uniform(0, seconds))
        ended = os.waitpid(second, os.WNOHANG)[0]
        if not ended:
            os.kill(second, signal.SIGSTOP)
        finish(first, count, place / "output1")
        if not ended:
            os.kill(second, signal.SIGCONT)
            finish(second, count, place / "output2")
        count.tried += 1
        count.wrong_numbers += not same(numbers(place), truth)
        count.left_behind += len(hidden(place)) + (not (place / "same.png").is_file())
        shutil.rmtree(place)
    return count


@contextmanager
def disk(folder: Path, size: int) -> Iterator[Path]:
    """A disk of so many bytes, at least a page: memory mounted as one, which needs root."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def full_disks(name: str, runs: int, folder: Path, rng: random.Random) -> Count:
    """A command on disks of each size up to what it needs, then with space: one line and status 2, then the numbers."""
    count = Count()
    truth, _ = whole(name, folder / "whole", count)
    network_bytes = (folder / "whole" / "net.safetensors").stat().st_size
    needed = sum(path.stat().st_size for path in (folder / "whole" / "results").rglob("*") if path.is_file())
    for run in range(runs):
        # Pages of 4 KiB; a journal takes about as much as the result.
        size = network_bytes + 8192 + int(2.5 * needed * run / runs) + rng.randrange(4096)
        output = folder / "output"
        with disk(folder / "disk", size) as place:
            shutil.copy(folder / "whole" / "net.safetensors", place)
            plot = ("--plot", "p.pdf")
            status = finish(start(name, place, output, *plot), count, output, expected=(0, 2))
            count.tried += 1
            torn = [path for path in hidden(place) if ".journal" not in path.name]
            for path in [*place.rglob("*.nc")]:
                try:
                    result.load(path)
                except LandscapeError:
                    torn.append(path)
            count.left_behind += len(torn)
            if status == 2:
                subprocess.run(["mount", "-o", f"remount,size={2**28}", str(place)], check=True)
                finish(start(name, place, output, *plot), count, output)
            count.wrong_numbers += not same(numbers(place), truth)
            count.left_behind += len(hidden(place))
    return count


def full_reports(runs: int, folder: Path, rng: random.Random) -> Count:
    """An audit whose ``--out`` is on disks of each size up to what it needs: one line and status 2, then the report."""
    count = Count()
    network(folder, "plain.safetensors")
    network(folder, "other.safetensors", "resnet_mcdo_smoothing_18")

    def audit(out: Path, expected: Sequence[int]) -> int:
        more = ("--baseline-checkpoints", "plain.safetensors", "--variant-checkpoints", "other.safetensors")
        child = start("audit", folder, folder / "output", *more, "--out", str(out))
        return finish(child, count, folder / "output", expected, limit=600)

    def reports(out: Path) -> dict[str, str]:
        """Their texts, without what differs from run to run: the folder, times, and the page's own checksum."""
        return {
            path.name: re.sub(
                r'"(milliseconds|sha256)": [^,\n]*|<tr><td>forward pass, ms.*',
                "",
                path.read_text().replace(str(out), "OUT"),
            )
            for path in sorted(out.rglob("report.*"))
        }

    # Answered from the cache from the second run on.
    audit(folder / "whole", (0,))
    audit(folder / "whole", (0,))
    truth = reports(folder / "whole")
    needed = sum(len(text.encode()) for text in truth.values())
    for run in range(runs):
        with disk(folder / "disk", 8192 + int(1.2 * needed * run / runs) + rng.randrange(4096)) as place:
            out = place / "report"
            status = audit(out, (0, 2))
            count.tried += 1
            partial_reports = [name for name, text in reports(out).items() if text != truth[name]]
            count.left_behind += len(hidden(place)) + len(partial_reports)
            if status == 2:
                subprocess.run(["mount", "-o", f"remount,size={2**28}", str(place)], check=True)
                audit(out, (0,))
            count.wrong_numbers += reports(out) != truth
            count.left_behind += len(hidden(place))
    return count


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--count", type=int, default=1000, help="damaged files of each kind")
    made.add_argument("--kills", type=int, default=20, help="runs of each command, three kills each")
    made.add_argument("--rivals", type=int, default=8, help="pairs of equal commands, of each command")
    made.add_argument("--disks", type=int, default=20, help="sizes of full disks, of each command (needs root)")
    made.add_argument(
        "--only", nargs="+", default=["results", "listings", "journals", "products", "directions", "runs"]
    )
    made.add_argument(
        "--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS), help="that are run; the audit always is"
    )
    made.add_argument("--seed", type=int, default=0)
    return made


def main() -> int:
    """Run them all, and print the table."""
    arguments = parser().parse_args()
    # One thread: bits depend on their number, and a process that has threads cannot fork.
    torch.set_num_threads(1)
    logging.disable()
    total = 0
    fields = [field.name for field in dataclasses.fields(Count)]
    print(f"{'':28}" + "".join(f"{name.replace('_', ' '):>15}" for name in fields), flush=True)

    def line(title: str, work: Callable[[Path, random.Random], Count]) -> None:
        nonlocal total
        with tempfile.TemporaryDirectory() as folder:
            count = work(Path(folder), random.Random(f"{arguments.seed} {title}"))
        total += count.wrong
        print(f"{title:28}" + "".join(f"{getattr(count, name):15}" for name in fields), flush=True)

    damages = {
        "results": results,
        "listings": listings,
        "journals": journals,
        "products": products,
        "directions": directions,
    }
    for title, damage in damages.items():
        if title in arguments.only:
            line(f"damaged {title}", partial(damage, arguments.count))
    if "runs" in arguments.only:
        logging.disable(logging.NOTSET)
        for name in arguments.commands:
            line(f"killed: {name}", partial(kills, name, arguments.kills))
            line(f"twice at once: {name}", partial(rivals, name, arguments.rivals))
            if os.geteuid() == 0 and arguments.disks:
                line(f"full disk: {name}", partial(full_disks, name, arguments.disks))
        if os.geteuid() == 0 and arguments.disks:
            line("full disk: audit's report", partial(full_reports, arguments.disks))
    return int(total > 0)


if __name__ == "__main__":
    sys.exit(main())
