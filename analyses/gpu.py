"""Half an hour of a GPU, used well: checks, then trainings side by side, then claims, all within a deadline.

``python -m analyses.gpu --preset converged --deadline 1700 --out DIR`` first sees that the device computes what it
should: a product against float64, TF32 off, a result saved and read. Then it trains the networks that are missing, seed
by seed, in several processes; those that would be late by the projection are not begun. The time that is left goes to
the claims. It ends before the deadline with what it has, with status 75 when something is missing, and the same command
goes on. Checkpoints (half precision), results, reports and a log (``gpu.json``) are in DIR.

Without a GPU the same program runs with ``--device cpu``, for instance ``--preset digits --seeds 1``.
"""

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analyses.kinds import PRESETS
from landscape import command
from landscape.command import launch
from landscape.errors import LandscapeError
from landscape.store import files

ROOT = Path(__file__).parents[1]
# In the order of their worth: what comes last is dropped first.
KINDS = ("mcdo", "mcdo-smooth", "dnn", "dnn-smooth")
# Relative error of a float32 product; TF32 would show some 1e-3.
MOST_ERROR = 3e-4
# Share of the time that is kept for measuring.
FOR_CLAIMS = 0.35
POLL = 0.2
# Seconds that a process has to save what it has; what it is in the middle of is measured again.
GRACE = 2.0


def parser() -> command.Parser:
    """Arguments."""
    parser = command.Parser("analyses.gpu", __doc__ or "")
    parser.add_argument("--preset", choices=PRESETS, default="converged", help="whose networks (default: converged)")
    parser.add_argument(
        "--kinds", nargs="+", default=list(KINDS), metavar="KIND", help="of networks, first things first"
    )
    parser.add_argument("--seeds", type=command.positive, default=4, metavar="N", help="of each kind (default: 4)")
    parser.add_argument("--deadline", type=float, default=1700.0, metavar="S", help="seconds in all (default: 1700)")
    parser.add_argument("--processes", type=command.positive, default=4, metavar="N", help="side by side (default: 4)")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:i or cpu")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of everything that is made")
    parser.add_argument(
        "--data-root", type=Path, default=Path("data"), metavar="DIR", help="folder of the CIFAR archives"
    )
    parser.add_argument("--no-claims", action="store_true", help="train only")
    return parser


@dataclass
class Job:
    """One command in a process of its own."""

    name: str
    arguments: Sequence[str]
    seconds: float | None = None
    status: int | None = None


@dataclass
class Program:
    """What is done within the deadline, and the log of it.

    Parameters
    ----------
    arguments
        Of the command line.
    began
        When it was started.
    """

    arguments: Any
    began: float = field(default_factory=time.monotonic)
    log: dict[str, Any] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds to the deadline."""
        return self.arguments.deadline - (time.monotonic() - self.began)

    def note(self, **facts: Any) -> None:
        """Add to the log, which is on disk at once."""
        self.log |= facts | {"seconds": round(time.monotonic() - self.began, 1)}
        files.write_json(self.arguments.out / "gpu.json", self.log)

    def start(self, job: Job) -> "subprocess.Popen[bytes]":
        """Begin a job; its words go to a file beside the results."""
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with (self.arguments.out / f"{job.name}.log").open("ab") as words:
            return subprocess.Popen(
                [sys.executable, "-m", *job.arguments],
                cwd=self.arguments.out,
                env=environment,
                stdout=words,
                stderr=words,
                stdin=subprocess.DEVNULL,
                # With the processes that it starts, it is stopped as one.
                start_new_session=True,
            )

    def run(self, jobs: Sequence[Job], until: float, *, late: Callable[[Sequence[Job]], bool]) -> None:
        """Jobs side by side; none is begun that is `late`, and none runs into the last `until` seconds."""
        waiting, running = list(jobs), dict[str, tuple[Job, subprocess.Popen[bytes], float]]()
        try:
            while waiting or running:
                while waiting and len(running) < self.arguments.processes:
                    job = waiting.pop(0)
                    if not late(jobs):
                        running[job.name] = (job, self.start(job), time.monotonic())
                if self.left < until:
                    stop([process for _, process, _ in running.values()])
                for name, (job, process, began) in list(running.items()):
                    if process.poll() is not None:
                        job.status, job.seconds = process.returncode, time.monotonic() - began
                        del running[name]
                        self.note(**{name: {"status": job.status, "seconds": round(job.seconds, 1)}})
                time.sleep(POLL)
        finally:
            stop([process for _, process, _ in running.values()])


def stop(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """End processes and what they have started: with time to save, and then without asking."""
    for name, seconds in (("SIGTERM", GRACE), ("SIGKILL", None)):
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, getattr(signal, name))
        until = None if seconds is None else time.monotonic() + seconds
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(None if until is None else max(0.0, until - time.monotonic()))


def check(device: Any, folder: Path) -> dict[str, float]:
    """That the device computes what it should, and that results can be saved; raises LandscapeError otherwise."""
    import numpy as np
    import torch
    import xarray

    from landscape import data, nets, selfcheck
    from landscape.compute.randomness import generator
    from landscape.compute.settings import own_settings
    from landscape.objective import CurvatureOperator, Objective
    from landscape.store import result
    from landscape.store.protocol import Protocol

    images = data.load("digits", "train").subset(32, seed=0)
    # With all layers of the paper: a kernel that is wrong is wrong for one of them.
    net = nets.build("resnet_mcdo_smoothing_18", num_classes=images.classes, width=8)

    def objective(dtype: str) -> Objective:
        return Objective(net, images, device=device, protocol=Protocol(l2="none").replace(dtype=dtype))

    exact = CurvatureOperator(objective("float64"))
    vector = torch.randn(exact.size, generator=generator(0, "check"), dtype=torch.float64).to(device)
    truth = exact @ vector
    rough = CurvatureOperator(objective("float32")) @ vector.float()
    error = float((rough - truth).norm() / truth.norm())
    if not error < MOST_ERROR:
        raise LandscapeError(f"a float32 product on {device} is off by {error:.1e}: no measurement here can be trusted")
    for each in selfcheck.curvature_checks(objective("float32"), objective("float32"), objective("float64")):
        if not each.passed:
            raise LandscapeError(
                f"{each.name}: off by {each.found:.1e} on {device}: no measurement here can be trusted"
            )
    with own_settings():
        matrix = torch.randn(512, 512, generator=generator(1, "check")).to(device)
        off = float(((matrix @ matrix).double() - matrix.double() @ matrix.double()).abs().max())
    if not off < 1e-3:
        raise LandscapeError(
            f"float32 matrix products on {device} are off by {off:.1e}: TF32 is on inside a measurement"
        )
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        saved = xarray.Dataset({"product": ("entry", rough[:8].cpu().numpy())})
        path = Path(scratch) / "check.nc"
        result.save(saved, path)
        if not np.array_equal(result.load(path)["product"].values, saved["product"].values):
            raise LandscapeError(f"a result that was saved under {folder} reads back as another one")
    return {"product_error": error, "matrix_error": off}


def main(argv: Sequence[str]) -> int:
    """Check, train, measure; 75 when time ran out."""
    from analyses import kinds
    from landscape import training

    arguments = parser().parse_args(argv)
    unknown = [kind for kind in arguments.kinds if kind not in kinds.KINDS]
    if unknown:
        raise LandscapeError(f"unknown kind {unknown[0]!r}: choose among {', '.join(kinds.KINDS)}")
    device = command.device(arguments)
    arguments.out = arguments.out.resolve()
    arguments.out.mkdir(parents=True, exist_ok=True)
    command.require_writable(arguments.out / "gpu.json")
    program = Program(arguments)
    program.note(device=command.described(device), **check(device, arguments.out))
    cache = arguments.out / "checkpoints"
    common = ["--data-root", str(arguments.data_root.resolve()), "--cache", str(cache), "--device", str(device)]
    trainings = []
    for seed in range(arguments.seeds):
        for kind in arguments.kinds:
            recipe = kinds.recipe(kind, arguments.preset)
            training.recipe(recipe.name)  # which a process of its own knows by its name alone
            if training.find(recipe, seed=seed, cache=cache) is None:
                given = [f"{recipe.name}@{seed}", "--series", "--half", "--quiet", *common]
                trainings.append(Job(f"{recipe.name}-seed{seed}", ["landscape.training", *given]))
    for_claims = 0.0 if arguments.no_claims else FOR_CLAIMS * arguments.deadline

    def late(jobs: Sequence[Job]) -> bool:
        """Whether a training begun now would end in the time of the claims."""
        spent = [job.seconds for job in jobs if job.status == 0 and job.seconds]
        return program.left - for_claims < (statistics.median(spent) if spent else 0.0)

    # Stopped between epochs it goes on later: a margin of seconds is enough.
    program.run(trainings, for_claims + 5, late=late)
    missing = [job.name for job in trainings if job.status != 0]
    program.note(missing=missing)
    if not arguments.no_claims:
        given = ["--measure", "--preset", arguments.preset, "--seeds", str(arguments.seeds), "--quiet", *common]
        given += ["--executor", f"processes:{arguments.processes}"]
        given += ["--reports", str(arguments.out / "claims"), "--out", str(arguments.out / "CLAIMS.md")]
        claims = Job("claims", ["analyses.claims", *given])
        program.run([claims], 5, late=lambda _: program.left < POLL)
        missing += [] if claims.status == 0 else ["claims"]
        program.note(missing=missing)
    print(f"{arguments.out}: " + (f"missing {', '.join(missing)}" if missing else "all done"))
    return command.STOPPED_IN_TIME if missing else 0


if __name__ == "__main__":
    launch("analyses.gpu")
