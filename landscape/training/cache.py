"""Trained networks by recipe: taken from the cache, or trained and put there."""

import re
from pathlib import Path

import torch

from landscape import checkpoint
from landscape.errors import LandscapeError
from landscape.training.recipes import Recipe, recipe
from landscape.training.trainer import train, vouch

CACHE = Path("checkpoints")
# Checkpoints that come with the repository, half precision; read only.
REFERENCE = Path(__file__).parents[2] / "reference"


def parse(specification: str, seed: int = 0) -> tuple[Recipe, int]:
    """Recipe and seed of ``RECIPE`` (with the given seed) or ``RECIPE@SEED``; raises LandscapeError."""
    name, at, number = specification.partition("@")
    if at and not re.fullmatch(r"\d+", number):
        raise LandscapeError(f"{specification!r} has no seed behind '@': write e.g. {name}@1")
    return recipe(name), int(number) if at else seed


def file_of(wanted: Recipe, seed: int, cache: Path | str = CACHE) -> Path:
    """Where the cache keeps the checkpoint of a recipe and seed, whether it is there or not."""
    return Path(cache) / wanted.file_name(seed)


def find(wanted: Recipe, *, seed: int = 0, cache: Path | str = CACHE) -> Path | None:
    """The checkpoint of a recipe and seed, if it has been trained: in `cache`, or among those of the repository.

    A file that an older recipe of the same name has made does not count.
    """
    cached = file_of(wanted, seed, cache)
    for file in (cached, *sorted(REFERENCE.glob(f"**/{cached.name}"))):
        made_by = checkpoint.read_recipe(file) if file.is_file() else None
        if made_by is not None and made_by | wanted.header(seed) == made_by:
            return file
    return None


def find_series(wanted: Recipe, *, seed: int = 0, cache: Path | str = CACHE) -> list[Path]:
    """The checkpoints along a training that are there, in order of time, the last one if it is finished."""
    epochs = [*wanted.series, wanted.trained_epochs]
    recipes = [wanted if epoch == wanted.trained_epochs else wanted.replace(stop_after=epoch) for epoch in epochs]
    found = [find(each, seed=seed, cache=cache) for each in recipes]
    return [file for file in found if file is not None]


def ensure(
    wanted: Recipe | str,
    *,
    seed: int = 0,
    cache: Path | str = CACHE,
    root: Path | str | None = None,
    device: torch.device | str = "cpu",
    compute: str = "auto",
    series: bool = False,
    quiet: bool = False,
) -> Path:
    """The checkpoint of a recipe: found, or trained now and kept in `cache`.

    Parameters
    ----------
    wanted
        A recipe, or ``NAME`` or ``NAME@SEED``.
    seed
        Decides initial weights, order, augmentation and masks.
    cache, root, device, compute, quiet
        See `train`.
    series
        Whether the checkpoints along the training are wanted, too: without any, it is trained again.

    Raises
    ------
    LandscapeError
        As `recipe` and `train` do.
    """
    if isinstance(wanted, str):
        wanted, seed = parse(wanted, seed)
    vouch(wanted)
    trained = find(wanted, seed=seed, cache=cache)
    if trained is not None and (not series or len(find_series(wanted, seed=seed, cache=cache)) > 1):
        return trained
    path = file_of(wanted, seed, cache)
    train(wanted, path, seed=seed, root=root, device=device, compute=compute, series=series, quiet=quiet)
    return path
