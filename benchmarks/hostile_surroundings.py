"""Commands in hostile surroundings: pipes that close, poor terminals, strange names, broken environments, signals.

``python benchmarks/hostile_surroundings.py [--only GROUP] [--limit N]`` runs every case in a process of its own and
prints how many were tried and how many went wrong. A case is wrong when it ends with a traceback, with a status that
says something else than what happened, with more than one line of error, when it leaves a partial file behind, or when
it hangs. Everything is made here: a small network, its source, 24 images.
"""

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
NETWORK = """
import torch

def build(num_classes=3):
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(3, num_classes),
    )
"""
QUICK = "--top 1 --trace-products 4 --probes 1 --steps 2 --device cpu"
LIMIT = 180.0
# By its path: one of the cases has no PATH.
BASH = shutil.which("bash") or "/bin/bash"


@dataclass(frozen=True)
class Case:
    """One command in one surrounding.

    Attributes
    ----------
    group, name
        For the table.
    command
        A shell command; ``{python}`` is the interpreter, ``{spectrum}`` a quick spectrum of ``net.pt``.
    statuses
        Those that are right; of the whole pipeline the first command's.
    environment
        Variables to set; None removes one.
    signals
        (seconds, signal) pairs to send to the process, counted from when an interpreter would have started.
    checkpoint, folder
        Names of the checkpoint and of the working folder, as bytes.
    line
        What the only line of standard error must match, where that is fixed.
    """

    group: str
    name: str
    command: str = "{spectrum}"
    statuses: tuple[int, ...] = (0,)
    environment: Mapping[str, str | None] = field(default_factory=dict)
    signals: tuple[tuple[float, int], ...] = ()
    checkpoint: bytes = b"net.pt"
    folder: bytes = b"work"
    line: str | None = None


def pipes() -> Iterator[Case]:
    """Readers that leave, streams that are closed or full."""
    for name, tail in {
        "true": "| true",
        "head -1": "| head -1",
        "head -c 10": "| head -c 10",
        "closed at once": "| (exec <&-)",
        "both, true": "2>&1 | true",
        "both, head -1": "2>&1 | head -1",
    }.items():
        for flags in ("", "--json"):
            yield Case("pipes", f"{flags} | {name}", f"{{spectrum}} {flags} {tail}", (0, 141))
        yield Case("pipes", f"--help | {name}", f"{{python}} -m landscape.hessian --help {tail}", (0, 141))
        yield Case("pipes", f"nets | {name}", f"{{python}} -m landscape.nets {tail}", (0, 141))
    for flags in ("", "--json"):
        yield Case("pipes", f"{flags} > /dev/full", f"{{spectrum}} {flags} > /dev/full", (2,), line="^error: .*space")
        yield Case("pipes", f"{flags} 2> /dev/full", f"{{spectrum}} {flags} 2> /dev/full")
        yield Case("pipes", f"{flags} output closed", f"{{spectrum}} {flags} >&-")
        yield Case("pipes", f"{flags} errors closed", f"{{spectrum}} {flags} 2>&-")
        yield Case("pipes", f"{flags} all closed", f"{{spectrum}} {flags} <&- >&- 2>&-")


def terminals() -> Iterator[Case]:
    """Locales, encodings and sizes."""
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for locale in ("C", "POSIX", "en_US.ISO-8859-1", "no_SUCH.place", ""):
        yield Case("terminals", f"LC_ALL={locale}", environment={**plain, "LC_ALL": locale})
    for encoding in ("ascii", "ascii:strict", "latin-1", "cp437", "utf-16", "shift_jis"):
        yield Case("terminals", f"PYTHONIOENCODING={encoding}", environment={"PYTHONIOENCODING": encoding})
    for flags in ("", "--json", "--plan", "--verbose"):
        yield Case("terminals", f"ASCII {flags}", f"{{spectrum}} {flags}", environment={**plain, "LC_ALL": "C"})
    yield Case("terminals", "nets, ASCII", "{python} -m landscape.nets", environment={**plain, "LC_ALL": "C"})
    for name, value in (("COLUMNS", "0"), ("COLUMNS", "x"), ("COLUMNS", "3"), ("TERM", "dumb"), ("TERM", None)):
        command = "{python} -m landscape.hessian --help"
        yield Case("terminals", f"--help, {name}={value}", command, environment={name: value})


STRANGE = {
    "newline": b"a\nb.pt",
    "escape": b"\x1b[31mred\x1b]0;t\x07.pt",
    "not UTF-8": b"caf\xe9\xff.pt",
    "250 bytes": b"n" * 247 + b".pt",
    "250 bytes of two": "é".encode() * 123 + b".pt",
    "markup": b"@DATA@<img src=x onerror=alert(1)>.pt",
    "script": b"<!--<script>.pt",
    "template": b"{{ 7 * 7 }}{% raw %}.pt",
    "mathematics": rb"$\frac{1$_{.pt",
    "dollars": b"a$b$c.pt",
    "quotes": b"\"'`;&|.pt",
    "glob": b"[ab]*?.pt",
    "percent": b"%s%n%(x)s.pt",
    "right to left": "‮gp.".encode() + b".pt",
    "line separator": "a\u2028b.pt".encode(),
    "spaces": b"  a  b  .pt",
    "dots": b"...pt.pt",
    "dash": b"-rf.pt",
}


def names() -> Iterator[Case]:
    """Names of files and folders, through tables, results and every kind of picture."""
    for name, checkpoint in STRANGE.items():
        yield Case("names", f"{name}, svg", "{spectrum} --plot p.svg", checkpoint=checkpoint)
        yield Case("names", f"{name}, pdf", "{spectrum} --plot p.pdf --json", checkpoint=checkpoint)
    surface = "{python} -m landscape.surface {checkpoint} {network} --points 3 --images 8 --device cpu"
    for name in ("escape", "not UTF-8", "markup", "script", "template", "mathematics", "250 bytes", "line separator"):
        yield Case("names", f"{name}, page", f"{surface} --html p.html --plot p.png", checkpoint=STRANGE[name])
    for name, out in {
        "250 bytes": "o" * 247 + ".nc",
        "300 bytes": "o" * 297 + ".nc",
        "a folder": "sub",
        "below a file": "net.py/x.nc",
        "newline": "a\nb.nc",
    }.items():
        yield Case("names", f"--out {name}", f"{{spectrum}} --out {shlex.quote(out)}", (0, 2))
    yield Case("names", "--out not UTF-8", "{spectrum} --out $'caf\\xe9.nc'", (0, 2))
    for name, folder in {"not UTF-8": b"caf\xe9", "newline": b"a\nb", "markup": b"<b>$x$", "spaces": b" a b "}.items():
        yield Case("names", f"folder {name}", "{spectrum} --plot p.pdf", folder=folder)


def environments() -> Iterator[Case]:
    """Variables that other programs set."""
    for name, value, statuses in (
        ("WORLD_SIZE", "x", (2,)),
        ("WORLD_SIZE", "2", (2,)),
        ("WORLD_SIZE", "-1", (2,)),
        ("WORLD_SIZE", "", (0,)),
        ("WORLD_SIZE", "1", (0,)),
        ("RANK", "x", (0,)),
        ("MPLBACKEND", "no_such", (0,)),
        ("MPLBACKEND", "TkAgg", (0,)),
        ("MPLBACKEND", "module://no_such", (0,)),
        ("MPLCONFIGDIR", "/dev/null", (0,)),
        ("HOME", "/no/such", (0,)),
        ("HOME", None, (0,)),
        ("XDG_CACHE_HOME", "/dev/null", (0,)),
        ("OMP_NUM_THREADS", "x", (0,)),
        ("OMP_NUM_THREADS", "0", (0,)),
        ("CUDA_VISIBLE_DEVICES", "x", (0,)),
        ("PYTHONOPTIMIZE", "2", (0,)),
        ("PYTHONUNBUFFERED", "1", (0,)),
        ("PYTHONWARNINGS", "error::UserWarning", (0,)),
        ("LANDSCAPE_DATA", "/no/such", (0,)),
        ("TMPDIR", "/no/such", (0,)),
        ("PATH", "", (0,)),
    ):
        plot = "{spectrum} --plot p.pdf"
        yield Case("environments", f"{name}={value}", plot, statuses, environment={name: value})
    yield Case("environments", "files up to 1 KiB", "ulimit -f 1; {spectrum} --plot p.pdf", (2,), line="^error: ")
    yield Case("environments", "40 open files", "ulimit -n 40; {spectrum}", (0, 2))
    yield Case("environments", "folder deleted", "d=$PWD; cd $(mktemp -d); rmdir $PWD; {spectrum}", (2,))


def signals() -> Iterator[Case]:
    """Ctrl-C and SIGTERM from the first moment on, once and twice, and others."""
    seconds = [0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0, 2.5, 3.0, 4.0]
    word = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        for at in seconds:
            name = f"{number.name} after {at} s"
            yield Case("signals", name, "{long}", (status,), signals=((at, number),), line=f"^{word[number]}: ")
    for at in seconds[::2]:
        twice = ((at, signal.SIGINT), (at + 0.05, signal.SIGINT))
        yield Case("signals", f"SIGINT twice after {at} s", "{long}", (130,), signals=twice, line="^interrupted: ")
    for at in seconds[1::3]:
        mixed = ((at, signal.SIGTERM), (at + 0.02, signal.SIGINT))
        # Where both are pending at once, Python sees SIGINT first.
        name, line = f"SIGTERM, SIGINT after {at} s", "^(terminated|interrupted): "
        yield Case("signals", name, "{long}", (143, 130), signals=mixed, line=line)


GROUPS = {group.__name__: group for group in (pipes, terminals, names, environments, signals)}


def seconds_to_start() -> float:
    """What an interpreter that does nothing takes at the moment."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.monotonic() - began


class Bench:
    """A folder with what the cases need."""

    def __init__(self, folder: Path) -> None:
        import numpy as np
        import torch

        from landscape.store.importing import named_object

        self.folder = folder
        (folder / "net.py").write_text(NETWORK)
        # Under a name of its own: another `net` may have been imported in this process.
        build = named_object(f"{folder / 'net.py'}:build")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            torch.save(build().state_dict(), folder / "net.pt")
        rng = np.random.default_rng(0)
        images = rng.normal(size=(24, 1, 8, 8)).astype(np.float32)
        np.savez(folder / "images.npz", images=images, labels=rng.integers(0, 3, 24))

    def run(self, case: Case) -> str:
        """What went wrong; empty when nothing did."""
        with tempfile.TemporaryDirectory(prefix="hostile-") as made:
            work = os.path.join(os.fsencode(made), case.folder)
            os.mkdir(work)
            for name in ("net.py", "images.npz"):
                os.symlink(self.folder / name, os.path.join(work, name.encode()))
            checkpoint = b"./" + case.checkpoint
            os.symlink(self.folder / "net.pt", os.path.join(work, case.checkpoint))
            return self._judge(case, work, checkpoint)

    def _judge(self, case: Case, work: bytes, checkpoint: bytes) -> str:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        for name, value in case.environment.items():
            if value is None:
                environment.pop(name, None)
            else:
                environment[name] = value
        # Through the environment, since a name that is no UTF-8 cannot stand in a script.
        network = "--model net.py:build --data images.npz"
        spectrum = f'{{python}} -m landscape.hessian "$CHECKPOINT" {network} {QUICK}'
        script = case.command.replace("{spectrum}", spectrum).replace("{network}", network)
        # Nobody waits for the end of this one; without a shell in between, which would get the signal instead.
        surface = f'exec {{python}} -m landscape.surface "$CHECKPOINT" {network} --points 999 --device cpu --quiet'
        script = script.replace("{long}", surface)
        script = script.replace("{checkpoint}", '"$CHECKPOINT"').replace("{python}", shlex.quote(sys.executable))
        script = f"set -o pipefail 2>/dev/null; {script}"
        # Nothing of ours runs before the interpreter does: moments count from then on.
        startup = max(seconds_to_start() for _ in range(3)) if case.signals else 0.0
        process = subprocess.Popen(
            [BASH, "-c", script],
            cwd=work,
            env={**environment, "CHECKPOINT": os.fsdecode(checkpoint)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        began = time.monotonic() + startup
        for at, number in case.signals:
            time.sleep(max(0.0, began + at - time.monotonic()))
            if process.poll() is None:
                process.send_signal(number)
        try:
            output, errors = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return "hangs"
        return self._faults(case, process.returncode, output, errors.decode(errors="replace"), work)

    def _faults(self, case: Case, status: int, output: bytes, errors: str, work: bytes) -> str:
        # Warnings about this untrained network, and where it is measured, are meant.
        lines = [line for line in errors.splitlines() if line.strip() and not line.startswith(("warning: ", "on cpu"))]
        found = []
        if "Traceback" in errors or "Exception ignored" in errors or "Fatal Python" in errors:
            found.append(f"traceback: {lines[-1][:120]}")
        if status not in case.statuses:
            found.append(f"status {status}, not {case.statuses}: {lines[-1][:120] if lines else ''}")
        if case.line is not None and not (lines and re.search(case.line, lines[-1])):
            found.append(f"says {lines[-1][:120] if lines else 'nothing'!r}")
        if sum(line.startswith("error: ") for line in lines) > 1 or (status in (2, 130, 143) and len(lines) != 1):
            found.append(f"{len(lines)} lines: {' / '.join(lines)[:160]}")
        if b"\x1b" in output or "\x1b" in errors:
            found.append("a raw escape character")
        for page in (os.path.join(work, name) for name in (b"p.html", b"p.svg")):
            if os.path.exists(page):
                with open(page, "rb") as opened:
                    text = opened.read()
                if re.search(rb"<img|\x1b|<!--<script", text):
                    found.append(f"{os.path.basename(page).decode()} holds live markup or a control character")
        partial = [name for _, _, files in os.walk(work) for name in files if b"partial" in name]
        if partial:
            found.append(f"left behind: {partial[0]!r}")
        return "; ".join(found)


def cases(only: list[str] | None = None) -> list[Case]:
    """All of them, or those of some groups."""
    return [case for name, group in GROUPS.items() if not only or name in only for case in group()]


def main() -> int:
    """Run the cases and print the table of counts; status 1 when something went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(GROUPS), action="append", help="this group; may repeat")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N cases of each group")
    arguments = parser.parse_args()
    tried: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="hostile-") as made:
        bench = Bench(Path(made))
        for case in cases(arguments.only):
            if arguments.limit is not None and tried[case.group] >= arguments.limit:
                continue
            tried[case.group] += 1
            fault = bench.run(case)
            if fault:
                wrong[case.group] += 1
                print(f"{case.group}, {case.name!r}: {fault}", flush=True)
    print(f"{'surroundings':15} {'tried':>6} {'wrong':>6}")
    for group in [*tried, "all"]:
        counts = (sum(tried.values()), sum(wrong.values())) if group == "all" else (tried[group], wrong[group])
        print(f"{group:15} {counts[0]:6} {counts[1]:6}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
