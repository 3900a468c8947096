"""Where the independent questions of studies, audits and campaigns are answered: here, or by an engine that exists.

A question is one training, or one instrument on one network. An engine answers them ahead, into the caches that every
process shares; then the study goes through them as always and finds the answers. So journals, results and their bits
are those of a run without an engine, a question whose worker is lost is asked again, and an error is reported here.
"""

import contextlib
import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from landscape.errors import LandscapeError

_log = logging.getLogger(__name__)

HELP = (
    "who answers the independent questions: processes:N on this machine, dask or dask:ADDRESS (a scheduler of "
    "dask.distributed), slurm:PARTITION (through submitit); all see the same folder (default: this process)"
)
# (function, its keyword arguments); both are pickled.
Question = tuple[Callable[..., object], Mapping[str, Any]]
_POLL = 0.1


@contextmanager
def opened(name: str | None, *, log: Path = Path("results") / "executor") -> Iterator[Any]:
    """An executor in the sense of `concurrent.futures`, or None for this process; closed behind the block.

    Parameters
    ----------
    name
        See `HELP`.
    log
        Folder of the files in which SLURM's jobs speak.

    Raises
    ------
    LandscapeError
        For an unknown engine, and for one that is not installed.
    """
    engine, _, where = (name or "").partition(":")
    if not engine:
        yield None
    elif engine == "processes" and where.isdigit() and int(where):
        context = multiprocessing.get_context("spawn")
        with futures.ProcessPoolExecutor(int(where), mp_context=context) as pool:
            yield pool
    elif engine == "dask":
        with _dask(where) as client:
            yield client.get_executor(pure=False)
    elif engine == "slurm" and where:
        yield _slurm(where, log)
    else:
        raise LandscapeError(f"no executor {name!r}: give processes:N, dask, dask:ADDRESS or slurm:PARTITION")


def _dask(address: str) -> Any:
    try:
        from distributed import Client
    except ImportError:
        raise LandscapeError("--executor dask takes Dask's scheduler: pip install distributed") from None
    try:
        return Client(address or None, set_as_default=False)
    except (OSError, ValueError) as error:
        raise LandscapeError(f"no scheduler of Dask at {address}: {error}") from None


def _slurm(partition: str, log: Path) -> Any:
    try:
        import submitit
    except ImportError:
        raise LandscapeError("--executor slurm takes submitit: pip install submitit") from None
    executor = submitit.AutoExecutor(folder=log)
    executor.update_parameters(slurm_partition=partition)
    return executor


def ahead(executor: Any, questions: Sequence[Question], *, quiet: bool = True) -> int:
    """Answer questions on an engine, and wait; returns how many were. What fails is left to be asked here.

    Parameters
    ----------
    executor
        As `opened` gives it; None answers nothing ahead.
    questions
        Each leaves its answer in a cache on disk.
    quiet
        No progress bar.
    """
    if executor is None or not questions:
        return 0
    from landscape.compute.progress import Progress

    folder, answered = os.getcwd(), 0
    waiting = [executor.submit(_answer, folder, function, dict(keywords)) for function, keywords in questions]
    try:
        with Progress(len(waiting), "answered elsewhere", unit="question", quiet=quiet) as bar:
            while waiting:
                finished = [future for future in waiting if future.done()]
                waiting = [future for future in waiting if future not in finished]
                for future in finished:
                    try:
                        future.result()
                        answered += 1
                    except Exception as error:
                        # The same question is asked again in this process, which reports what is wrong with it.
                        _log.info("a question was not answered elsewhere: %s: %s", type(error).__name__, error)
                    bar.update(1)
                time.sleep(_POLL)
    finally:
        for future in waiting:
            with contextlib.suppress(Exception):
                future.cancel()
    return answered


def _answer(folder: str, function: Callable[..., object], keywords: Mapping[str, Any]) -> None:
    """On a worker: in the folder of the one who asks; the answer stays on disk."""
    os.chdir(folder)
    function(**keywords)
