"""Which checkpoints belong to one training, and in which order."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from landscape import checkpoint
from landscape.errors import LandscapeError

_ENDINGS = (".safetensors", ".pt", ".pth", ".th", ".ckpt", ".bin", ".pth.tar")
# The number behind such a word is a time; without one, the last number of the name is.
# Short ones end others: sweep3, crafter2.
_TIME = re.compile(r"(?:epoch|step|iteration|iter|checkpoint|ckpt|(?<![a-z])(?:after|ep))[-_=]?(\d+)", re.IGNORECASE)
_NUMBER = re.compile(r"(\d+)")


@dataclass(frozen=True)
class Series:
    """The checkpoints of one training.

    Attributes
    ----------
    name
        What they have in common.
    files
        In the order of time.
    times
        Epochs or steps, or 0, 1, 2, ... when nothing tells.
    """

    name: str
    files: tuple[Path, ...]
    times: tuple[int, ...]


def series(names: Sequence[Path]) -> list[Series]:
    """Sort checkpoints into trainings, each in the order of time.

    The time of a checkpoint is the last epoch of its history where it has one (ours do), else the last number behind a
    word such as *epoch* or *step* in its name, else the last number there. Checkpoints are of one training when their
    names agree but for these; files without any number, in the order in which they are named, are one training, unless
    files of their folder have times: no order says where ``best.pth`` stands among epochs.

    Parameters
    ----------
    names
        Files, and folders, which stand for the checkpoints directly in them.

    Raises
    ------
    LandscapeError
        When a folder or file is missing, a training has one checkpoint only, two have the same time, or some of a
        folder have one and others not; the message names the files.
    """
    files = [file for name in names for file in _files(name)]
    groups: dict[str, list[tuple[int | None, Path]]] = {}
    for file in dict.fromkeys(files):
        label, time = _placed(file)
        groups.setdefault(label, []).append((time, file))
    _require_times([member for members in groups.values() for member in members])
    trainings = []
    for label, members in groups.items():
        timed = sorted((place if time is None else time, file) for place, (time, file) in enumerate(members))
        times = [time for time, _ in timed]
        if len(set(times)) < len(times):
            twice = next(time for time in times if times.count(time) > 1)
            both = " and ".join(str(file) for time, file in timed if time == twice)
            raise LandscapeError(f"{label} has two checkpoints of time {twice}, {both}: give one of them")
        if len(timed) < 2:
            raise LandscapeError(f"{label} has one checkpoint, {timed[0][1]}: a series needs two or more")
        trainings.append(Series(label, tuple(file for _, file in timed), tuple(times)))
    return trainings


def _require_times(members: Sequence[tuple[int | None, Path]]) -> None:
    """Raise LandscapeError for files without a time beside files of the same folder that have one."""
    folders = {file.parent for time, file in members if time is not None}
    unplaced = [file for time, file in members if time is None and file.parent in folders]
    if unplaced:
        example = next(file for time, file in members if time is not None and file.parent == unplaced[0].parent)
        raise LandscapeError(
            f"no epoch is known of {', '.join(map(str, unplaced))}, as it is of {example.name}: leave such files out "
            "(give files, not their folder), or write their epochs into their names"
        )


def _files(name: Path) -> list[Path]:
    if name.is_dir():
        files = sorted(file for file in name.iterdir() if file.is_file() and file.name.endswith(_ENDINGS))
        files = [file for file in files if not file.name.startswith(".")]
        if not files:
            raise LandscapeError(f"no checkpoints in {name}: they end in {', '.join(_ENDINGS)}")
        return files
    if not name.is_file():
        raise LandscapeError(f"no checkpoint {name}: give files, or a folder of them")
    return [name]


def _placed(file: Path) -> tuple[str, int | None]:
    """What a checkpoint has in common with the others of its training, and its time."""
    ending = next((each for each in sorted(_ENDINGS, key=len, reverse=True) if file.name.endswith(each)), "")
    stem = file.name.removesuffix(ending)
    recipe, history = checkpoint.read_recipe(file), checkpoint.read_history(file)
    epoch = history[-1].get("epoch") if history and isinstance(history[-1], dict) else None
    if recipe is not None and isinstance(epoch, int):
        return re.sub(r"-after\d+", "", stem), epoch
    # Of epoch=3-step=400, as Lightning names them, the step: several may be of one epoch.
    times = list(_TIME.finditer(stem)) or list(_NUMBER.finditer(stem))[-1:]
    if not times:
        return str(file.parent), None
    time = int(times[-1][1])
    bounds = [0, *[bound for match in times for bound in match.span()], len(stem)]
    kept = [stem[start:end].strip("-_. ") for start, end in zip(bounds[::2], bounds[1::2], strict=True)]
    return "-".join(part for part in kept if part) or str(file.parent), time
