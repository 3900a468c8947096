"""Damaged and hostile checkpoints by the thousand: nothing in them runs, and each is loaded or refused in one line.

    python -m benchmarks.fuzz_checkpoints --count 1500 --seed 0

Each file is loaded in a worker process with a time limit and a limit on memory; a hook sees any file written, process
started, socket opened or unusual module imported meanwhile. The table counts, for every kind of mutation, what was
loaded, what was refused in one line, and what must not happen: code that ran, a traceback, a hang, a crash, more than
1 GiB above the file's size, or changed weights that nobody was told of where the format has a checksum.
"""

import argparse
import copy
import io
import json
import os
import pickle
import random
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from landscape import checkpoint, nets
from landscape.command import columns

NETWORK = "resnet_dnn_18"
MODEL: dict[str, Any] = {"name": NETWORK, "num_classes": 3, "width": 1}
RECIPE = {
    "recipe": "digits-x",
    "model": {**MODEL, "smoothing": "blur", "head": "gap", "stages": [1, 1, 1, 1], "dropout": 0.0, "stem": False},
    "data": {"name": "digits"},
    "training": {"epochs": 1, "weight_decay": 5e-4},
    "run": {"device": "cpu"},
    "sources": {},
    "seed": 0,
}
HISTORY = [{"epoch": 1, "seconds": 1.0, "test_accuracy": 0.5}]
# Values that a field may not have: names that would run, numbers out of bounds, other types, other depths.
VALUES: list[Any] = [
    "os:_exit", "os:abort", "payload:boom", "payload.py:boom", "http.server:test", "timeit:main", "posix:system",
    "builtins:exec", "\x1b]0;title\x07", "<script>alert(1)</script>", "", "x" * 100_000,
    "blur(kernel=" + "1-" * 20_000 + "1)",
    -1, 0, 600, 16_384, 10**9, 10**30, -5, 0.5, 1e308, float("nan"), float("inf"), True, None, [], {}, [10**6] * 4,
    [[[[[[]]]]]], {"a": {"b": 1}}, [0, 0, 0, 10**6],
]  # fmt: skip
BAD = ("ran code", "traceback", "hang", "crash", "grew", "changed silently")
SECONDS = 20.0
GIB = 2**30


class Calls:
    """Pickled, it calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def executing(kind: int) -> Calls:
    """Six ways of running something."""
    return [
        lambda: Calls(exec, "open('ran', 'w').close()"),
        lambda: Calls(os.system, "touch ran"),
        lambda: Calls(open, "ran", "w"),
        lambda: Calls(__import__, "payload"),
        lambda: Calls(getattr, Path("ran"), "touch"),
        lambda: Calls(subprocess.Popen, ["touch", "ran"]),
    ][kind]()


def bases(folder: Path) -> dict[str, Path]:
    """Whole files of every kind."""
    state = {name: value.contiguous() for name, value in nets.build(**MODEL).state_dict().items()}
    own = checkpoint.save(folder / "own.safetensors", state, recipe=RECIPE, history=HISTORY)
    safetensors.torch.save_file(state, folder / "foreign.safetensors")
    torch.save({"state_dict": state, "epoch": 3, "args": argparse.Namespace(lr=0.1)}, folder / "zip.pth")
    torch.save({"state_dict": state, "epoch": 3}, folder / "old.th", _use_new_zipfile_serialization=False)
    return {"own": own, "foreign": folder / "foreign.safetensors", "zip": folder / "zip.pth", "old": folder / "old.th"}


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything in a JSON value."""
    if at:
        yield at
    for step, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(part, (*at, step))


def with_header(content: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """A safetensors file with a changed header."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    text = json.dumps(change(header) or header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def with_pickle(content: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A file of torch.save with a changed description, its checksum made right."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, change(data) if name.endswith("data.pkl") else data)
    return target.getvalue()


def flipped(content: bytes, source: random.Random, low: int = 0, high: int | None = None) -> bytes:
    """A few bits flipped between two places."""
    damaged = bytearray(content)
    for _ in range(source.choice((1, 1, 2, 8))):
        damaged[source.randrange(low, high or len(damaged))] ^= 1 << source.randrange(8)
    return bytes(damaged)


def cut(content: bytes, source: random.Random) -> bytes:
    """Truncated, lengthened, or with a piece lost, doubled or zeroed."""
    one, other = sorted(source.randrange(len(content) + 1) for _ in range(2))
    return source.choice(
        (
            content[:one],
            content[other:],
            content[:one] + content[other:],
            content[:other] + content[one:],
            content[:one] + bytes(other - one) + content[other:],
            content + source.randbytes(64),
        )
    )


def edited(content: bytes, source: random.Random) -> bytes:
    """A field of the recipe or of the history replaced or removed, the file's checksum left out."""

    def change(header: dict[str, Any]) -> None:
        metadata = header["__metadata__"]
        metadata.pop("content_sha256", None)
        part = source.choice(("recipe", "recipe", "recipe", "history"))
        value = json.loads(metadata[part])
        at = source.choice(list(places(value)))
        new = copy.deepcopy(source.choice(VALUES))
        if part == "recipe" and source.random() < 0.3:
            # Where names of layers and data stand, something that would run.
            at, new = source.choice((("model", "smoothing"), ("data", "name"))), source.choice(VALUES[:8])
        inner = value
        for step in at[:-1]:
            inner = inner[step]
        if source.random() < 0.1:
            del inner[at[-1]]
        else:
            inner[at[-1]] = new
        metadata[part] = json.dumps(value)
        if source.random() < 0.05:
            metadata[part] = source.choice(("[" * 5000, '{"a":' * 5000, "[" * 5000 + "]" * 5000, "\x00", "9" * 5000))

    return with_header(content, change)


def reshaped(content: bytes, source: random.Random) -> bytes:
    """Shapes, types and offsets of a safetensors header changed; overlapping ones among them."""

    def change(header: dict[str, Any]) -> None:
        names = [name for name in header if name != "__metadata__"]
        one, other = source.sample(names, 2)
        kind = source.randrange(6)
        if kind == 0:
            header[one]["shape"] = source.choice(([10**9], [2**31, 2**31], [2**62, 4], [-1], [0], [1] * 100_000))
        elif kind == 1:
            header[one]["data_offsets"] = header[other]["data_offsets"]
        elif kind == 2:
            begin, end = header[one]["data_offsets"]
            header[one]["data_offsets"] = source.choice(
                ([begin, end + 4], [begin, 2**63], [end, begin], [begin + 1, end + 1])
            )
        elif kind == 3:
            header[one]["dtype"] = source.choice(("F8_E4M3", "F16", "I64", "BOOL", "F64", "C64", "X9", "BF16", "U8"))
        elif kind == 4:
            header[one], header[other] = header[other], header[one]
        else:
            header[f"{one}\x1b[31m"] = header.pop(one)

    return with_header(content, change)


def enlarged(content: bytes, source: random.Random) -> bytes:
    """Sizes in the description of a torch file replaced by huge ones, or its instructions changed at random."""

    def change(data: bytes) -> bytes:
        kind = source.randrange(4)
        if kind == 0:
            return flipped(data, source)
        if kind == 1:
            return cut(data, source)
        damaged = bytearray(data)
        numbers = [place for place in range(len(damaged) - 1) if damaged[place] == ord("K")]
        place = source.choice(numbers)
        big = source.choice((2**31 - 1, 2**30, 10**9))
        if kind == 2:
            damaged[place : place + 2] = b"J" + struct.pack("<i", big)
        else:
            # A number of eight bytes, or an index of the memo that asks for gigabytes of places.
            damaged[place : place + 2] = source.choice(
                (b"\x8a\x08" + struct.pack("<q", 2**62), b"K\x01r\xff\xff\xff\xf0")
            )
        return bytes(damaged)

    return with_pickle(content, change)


def bombs(folder: Path, source: random.Random) -> bytes:
    """Small files that ask for much."""
    kind = source.randrange(8)
    state = dict(nets.build(**MODEL).state_dict())
    name = source.choice([name for name in state if state[name].ndim])
    buffer = io.BytesIO()
    if kind == 0:
        state[name] = Calls(bytearray, 2 * 10**9)  # type: ignore[assignment]
    elif kind == 1:
        state[name] = torch.zeros(1).expand(10**11)
    elif kind == 2:
        state[name] = torch.zeros(1).as_strided((2**20, 2**20), (0, 0))
    elif kind == 3:
        state[name] = Calls(bytes, 2 * 10**9)  # type: ignore[assignment]
    elif kind == 4:
        state |= {f"{number}": torch.zeros(2**18).expand(1, 2**18) for number in range(3)}
        shared = torch.zeros(2**20)
        state |= {f"{number}": shared for number in range(300)}
    elif kind == 5:
        nested: Any = 0
        for _ in range(300):
            nested = [nested]
        state["nested"] = nested
    elif kind == 6:
        return b"\x80\x02" + b"(" * 200_000 + b"]" + b"l" * 200_000 + b"."
    else:
        return b"\x80\x04" + b"\x8e" + struct.pack("<Q", 2**40) + b"x."
    torch.save(state, buffer, _use_new_zipfile_serialization=source.random() < 0.7)
    return buffer.getvalue()


def pickled(source: random.Random) -> bytes:
    """Pickles that execute, in six ways and several places."""
    state: dict[str, Any] = dict(nets.build(**MODEL).state_dict())
    evil = executing(source.randrange(6))
    where = source.randrange(6)
    content: Any = {"state_dict": state}
    if where == 0:
        content["x"] = evil
    elif where == 1:
        state[source.choice(list(state))] = evil
    elif where == 2:
        content = evil
    elif where == 3:
        return pickle.dumps(evil, protocol=source.randrange(6))
    elif where == 4:
        return source.choice(
            (b"(S'touch ran'\nios\nsystem\n.", b"cposix\nsystem\n(S'touch ran'\ntR.", b"(cos\nsystem\nS'touch ran'\no.")
        )
    else:
        content = {"optimizer": [evil], **content}
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=source.random() < 0.7)
    return buffer.getvalue()


Kinds = dict[str, Callable[[dict[str, bytes], random.Random], tuple[str, bytes]]]


def kinds(folder: Path) -> Kinds:
    """Mutations by name: (whole files, source) -> (which of them, its bytes)."""

    def of(change: Callable[[bytes, random.Random], bytes], *names: str) -> Callable[..., tuple[str, bytes]]:
        def mutate(whole: dict[str, bytes], source: random.Random) -> tuple[str, bytes]:
            name = source.choice(names or tuple(whole))
            return name, change(whole[name], source)

        return mutate

    def of_header(content: bytes, source: random.Random) -> bytes:
        return flipped(content, source, 0, 8 + struct.unpack("<Q", content[:8])[0])

    return {
        "bits flipped": of(flipped),
        "bits flipped in headers": of(of_header, "own", "foreign"),
        "truncated, pieces lost": of(cut),
        "header edited by field": of(edited, "own"),
        "shapes, types, offsets": of(reshaped, "own", "foreign"),
        "huge sizes in pickles": of(enlarged, "zip"),
        "bombs": lambda whole, source: ("bomb", bombs(folder, source)),
        "pickles that execute": lambda whole, source: ("evil", pickled(source)),
    }


# ----- the worker -----


def work() -> None:
    """Load the files named on standard input, one at a time, and say what happened."""
    import resource

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    events: list[str] = []
    known = (sys.base_prefix, sys.prefix, str(Path(torch.__file__).parents[1]), str(Path(__file__).parents[1]))
    watching = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if not watching:
            return
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        started = event in ("os.system", "subprocess.Popen", "os.exec", "os.fork", "os.posix_spawn")
        # Modules of Python and of installed libraries are run when they are first imported.
        started |= event == "exec" and not arguments[0].co_filename.startswith(known)
        imported = event == "import" and str(arguments[0]).partition(".")[0] in (
            "payload",
            "http",
            "timeit",
            "antigravity",
        )
        if writes or started or imported or event.startswith("socket."):
            events.append(f"{event} {str(arguments)[:100]}")

    # Whatever is imported when it is first used is imported before anybody watches.
    warm = Path(tempfile.mkdtemp())
    for path in bases(warm).values():
        with_errors(path, NETWORK)
        with_errors(path, None)
    shutil.rmtree(warm)
    used = _memory("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (used + 6 * GIB, used + 6 * GIB))
    sys.addaudithook(hook)
    for line in sys.stdin:
        task = json.loads(line)
        Path("/proc/self/clear_refs").write_text("5")
        before = _memory("VmHWM")
        watching, began = True, time.perf_counter()
        outcome, detail, digest = with_errors(Path(task["path"]), task["model"])
        watching = False
        grown = _memory("VmHWM") - before
        print(
            json.dumps(
                {
                    "outcome": outcome,
                    "detail": detail,
                    "digest": digest,
                    "events": events[:3],
                    "grown": grown,
                    "seconds": time.perf_counter() - began,
                }
            ),
            file=answers,
            flush=True,
        )
        events.clear()


def _memory(field: str) -> int:
    """Bytes of memory of this process: VmSize, or VmHWM for the peak of the resident part since it was last reset."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1]) * 1024


def with_errors(path: Path, model: str | None) -> tuple[str, str, str]:
    """(outcome, message, digest of the weights) of loading a file."""
    from landscape.checkpoint.saving import content_sha256
    from landscape.errors import LandscapeError

    try:
        loaded = checkpoint.load(path, model=model)
        if loaded.recipe is not None:
            loaded.trained_on()
        return "loaded", "", content_sha256(loaded.model.state_dict(), {})
    except LandscapeError as error:
        return ("refused" if str(error).isprintable() else "traceback"), str(error), ""
    except BaseException as error:
        import traceback

        return "traceback", "".join(traceback.format_exception(error)[-3:]), ""


class Worker:
    """A process that loads files, started again when it dies or hangs."""

    command: tuple[str, ...] = (sys.executable, "-m", "benchmarks.fuzz_checkpoints", "--worker")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._start()

    def _start(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            env=environment,
        )

    def load(self, path: Path, model: str | None, *, limit: float = SECONDS) -> dict[str, Any]:
        """What happened to a file."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write((json.dumps({"path": str(path), "model": model}) + "\n").encode())
            self.process.stdin.flush()
            ready, _, _ = select.select([self.process.stdout], [], [], limit)
            answer = self.process.stdout.readline() if ready else b""
        except OSError:
            ready, answer = [self.process.stdout], b""
        if answer:
            return json.loads(answer)
        self.process.kill()
        self.process.communicate()
        status = self.process.returncode
        self._start()
        self.load(self.folder / "own.safetensors", None, limit=300)
        return {
            "outcome": "crash" if ready else "hang",
            "detail": f"status {status}",
            "digest": "",
            "events": [],
            "grown": 0,
        }

    def close(self) -> None:
        """End the process."""
        self.process.communicate(timeout=60)


def run(count: int, seed: int, folder: Path) -> tuple[dict[str, Counter[str]], list[str]]:
    """Counts by kind of mutation, and a line on each thing that must not happen."""
    source = random.Random(seed)
    (folder / "payload.py").write_text("open('ran', 'w').close()\n")
    files = bases(folder)
    whole = {name: path.read_bytes() for name, path in files.items()}
    mutations = kinds(folder)
    counts: dict[str, Counter[str]] = {name: Counter() for name in mutations}
    complaints = []
    worker = Worker(folder)
    original = {name: worker.load(path, NETWORK, limit=300)["digest"] for name, path in files.items()}
    for number in range(count):
        kind = list(mutations)[number % len(mutations)]
        name, content = mutations[kind](whole, source)
        path = folder / f"{number}{files[name].suffix if name in files else '.pth'}"
        path.write_bytes(content)
        model = source.choice((NETWORK, None)) if name != "own" else None
        told = worker.load(path, model)
        outcome = told["outcome"]
        if told["events"] or (folder / "ran").exists():
            outcome = "ran code"
        elif told["grown"] > GIB + len(content):
            outcome = "grew"
        elif outcome == "loaded" and kind in ("bits flipped", "truncated, pieces lost") and name in ("own", "zip"):
            outcome = "loaded" if told["digest"] == original[name] else "changed silently"
        counts[kind][outcome] += 1
        if outcome in BAD:
            complaints.append(f"{outcome}: {kind}, number {number} ({name}): {told['detail']} {told['events']}")
            (folder / "ran").unlink(missing_ok=True)
        path.unlink()
    worker.close()
    return counts, complaints


def main() -> int:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work()
        return 0
    with tempfile.TemporaryDirectory() as folder:
        counts, complaints = run(arguments.count, arguments.seed, Path(folder))
    head = ["mutation", "files", "loaded", "refused", *BAD]
    rows = [[kind, str(found.total()), *(str(found[name]) for name in head[2:])] for kind, found in counts.items()]
    total = sum(counts.values(), Counter[str]())
    rows.append(["together", str(total.total()), *(str(total[name]) for name in head[2:])])
    print(columns(head, rows))
    for line in complaints:
        print(line)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
