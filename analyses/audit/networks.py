"""Which networks an audit compares, and how they come about."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landscape import checkpoint, training
from landscape.errors import LandscapeError
from landscape.nets import smoothing
from landscape.training import Recipe

ROLES = ("baseline", "variant", "placebo")
PLACEBO = "identity"
# The placebo is trained from seeds of its own: with the baseline's it would be the baseline to the last bit, and would
# not show how much two trainings differ by themselves.
PLACEBO_SEEDS = 1000


@dataclass(frozen=True)
class Preset:
    """What is trained when no checkpoints are given.

    Attributes
    ----------
    recipe
        Of the baseline; the variant adds its layer.
    epochs, width
        In the recipe's place.
    """

    recipe: str
    epochs: int | None = None
    width: int | None = None


PRESETS: dict[str, Preset] = {
    # Narrow and short, so that nine trainings and their measurements take minutes.
    "digits": Preset("digits-plain", epochs=8, width=8),
    "cifar100-small": Preset("cifar100-small-mcdo"),
    "converged": Preset("converged-mcdo"),
    "paper": Preset("cifar100-paper-resnet_mcdo_18"),
}


@dataclass(frozen=True)
class Network:
    """A trained network of an audit.

    Attributes
    ----------
    role
        One of `ROLES`.
    label
        What it is.
    seed
        Which pair it belongs to.
    path
        Its checkpoint.
    """

    role: str
    label: str
    seed: int
    path: Path


def recipe_of(preset: Preset, layer: str | None) -> Recipe:
    """The recipe of a preset with a smoothing layer, or without one.

    Raises
    ------
    LandscapeError
        For an unknown layer.
    """
    base = training.recipe(preset.recipe)
    model: dict[str, Any] = dict(base.model)
    changes: dict[str, Any] = {}
    if preset.width is not None:
        model["width"] = preset.width
    if preset.epochs is not None:
        changes["epochs"] = preset.epochs
    name = "plain"
    if layer is not None:
        smoothing.factory(layer)
        model["smoothing"] = layer
        name = _slug(layer)
    # Unchanged, the plain network is the recipe's own, which may be trained already.
    if layer is None and not changes and model == dict(base.model):
        return base
    return base.replace(name=f"audit-{base.data}-{name}", model=model, **changes)


def _slug(layer: str) -> str:
    """A file name for a layer; one of the user's own carries the hash of its source, which may change."""
    readable = re.sub(r"[^\w.]+", "-", Path(layer).name).strip("-")
    file = layer.rpartition(":")[0]
    if file.endswith(".py"):
        readable += "-" + hashlib.sha256(Path(file).read_bytes()).hexdigest()[:8]
    return readable


def trained(
    preset: Preset,
    layer: str,
    seeds: Sequence[int],
    *,
    cache: Path,
    root: Path | None,
    device: str,
    quiet: bool,
    placebo: bool = True,
) -> list[Network]:
    """Baseline, variant and placebo for every seed, trained or found."""
    wanted: list[tuple[str, str, str | None, int]] = [("baseline", "plain", None, 0), ("variant", layer, layer, 0)]
    if placebo:
        wanted.append(("placebo", f"{PLACEBO}, other seeds", PLACEBO, PLACEBO_SEEDS))
    # All of them before the first training: a wrong layer is told at once.
    recipes = {smooth: recipe_of(preset, smooth) for _, _, smooth, _ in wanted}
    made = []
    for seed in seeds:
        for role, label, smooth, shift in wanted:
            path = training.ensure(
                recipes[smooth], seed=seed + shift, cache=cache, root=root, device=device, quiet=quiet
            )
            made.append(Network(role, label, seed, path))
    return made


def given(roles: Mapping[str, Sequence[Path]]) -> list[Network]:
    """Networks of given checkpoints: as many of the variant (and placebo) as of the baseline, paired in order.

    Raises
    ------
    LandscapeError
        When the numbers differ.
    """
    counts = {role: len(paths) for role, paths in roles.items() if paths}
    if len(set(counts.values())) != 1:
        told = ", ".join(f"{count} of the {role}" for role, count in counts.items())
        raise LandscapeError(f"checkpoints are paired in order, but there are {told}: give as many of each")
    return [Network(role, _told(path), seed, path) for role, paths in roles.items() for seed, path in enumerate(paths)]


def _told(path: Path) -> str:
    recipe = checkpoint.read_recipe(path)
    return re.sub(r"-seed\d+$", "", path.stem) if recipe is None else str(recipe.get("recipe", path.stem))
