"""Which networks an audit compares, and how they come about."""

import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from analyses import executors
from analyses.kinds import BASELINES
from landscape import checkpoint, data, nets, training
from landscape.compute.masks import Masks
from landscape.errors import LandscapeError
from landscape.nets import smoothing
from landscape.store import files
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


PRESETS: dict[str, Preset] = {name: Preset(recipe) for name, recipe in BASELINES.items()}
# Narrow and short, so that nine trainings and their measurements take minutes.
PRESETS["digits"] = Preset(BASELINES["digits"], epochs=8, width=8)


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
    model
        Name or factory of the network, for weights that do not say which they belong to.
    """

    role: str
    label: str
    seed: int
    path: Path
    model: str | None = None


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
    return base.replace(name=f"audit-{base.name}-{name}", model=model, **changes)


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
    executor: Any = None,
) -> list[Network]:
    """Baseline, variant and placebo for every seed, trained or found; `executor` as in `analyses.executors`.

    Raises
    ------
    LandscapeError
        Before the first training: for an unknown layer, or one that does not run in the network (`step_seconds`).
    """
    planned = wanted(preset, layer, seeds, placebo=placebo)
    if any(training.find(each.recipe, seed=each.seed, cache=cache) is None for each in planned):
        step_seconds(recipe_of(preset, layer), root, images=2)
    common: dict[str, Any] = {"cache": cache, "root": root, "device": device, "quiet": quiet}
    trainings = [{"wanted": each.recipe, "seed": each.seed, **common} for each in planned]
    executors.ahead(executor, [(training.ensure, {**each, "quiet": True}) for each in trainings], quiet=quiet)
    paths = [training.ensure(**each) for each in trainings]
    return [Network(each.role, each.label, each.pair, path) for each, path in zip(planned, paths, strict=True)]


@dataclass(frozen=True)
class Wanted:
    """A training of an audit: the network's role and label, the pair it belongs to, its recipe and its own seed."""

    role: str
    label: str
    pair: int
    recipe: Recipe
    seed: int


def wanted(preset: Preset, layer: str, seeds: Sequence[int], *, placebo: bool) -> list[Wanted]:
    """The trainings of an audit, one seed after the other."""
    roles: list[tuple[str, str, str | None, int]] = [("baseline", "plain", None, 0), ("variant", layer, layer, 0)]
    if placebo:
        roles.append(("placebo", f"{PLACEBO}, other seeds", PLACEBO, PLACEBO_SEEDS))
    recipes = {smooth: recipe_of(preset, smooth) for _, _, smooth, _ in roles}
    return [
        Wanted(role, label, seed, recipes[smooth], seed + shift)
        for seed in seeds
        for role, label, smooth, shift in roles
    ]


def step_seconds(recipe: Recipe, root: Path | None, *, images: int | None = None) -> float:
    """Seconds of a pass forwards and backwards through a recipe's untrained network, on one batch.

    Parameters
    ----------
    recipe
        Whose network.
    root
        Folder of downloaded data.
    images
        In the batch; the recipe's own number by default.

    Raises
    ------
    LandscapeError
        When the network, with the smoothing layer that it was given, cannot be run forwards or backwards.
    """
    batch = data.load(recipe.data, "train", root=root).batch(0, images or recipe.batch)
    network = nets.build(**recipe.model, seed=0).train()  # type: ignore[arg-type]
    layer = recipe.model.get("smoothing")
    try:
        with torch.random.fork_rng(devices=[]), Masks.addressed(seed=0) as masks:
            masks.address(first_example=0, sample=0)
            began = time.perf_counter()
            outputs = network(batch)
            outputs.float().square().mean().backward()
    except Exception as error:
        if isinstance(error, LandscapeError):
            raise
        what = f"the layer {layer}" if layer else "the network"
        lines = str(error).splitlines() or [""]
        raise LandscapeError(
            f"{what} does not run in {recipe.model['name']} on {recipe.data}: {type(error).__name__}: {lines[0]}; "
            "it must map (N, C, H, W) to (N, C, H', W') and be differentiable"
        ) from None
    if not outputs.isfinite().all():
        raise LandscapeError(f"the layer {layer} gives numbers that are not finite in {recipe.model['name']}: mend it")
    return time.perf_counter() - began


def given(roles: Mapping[str, Sequence[Path]], models: Mapping[str, str | None] | None = None) -> list[Network]:
    """Networks of given checkpoints: as many of the variant (and placebo) as of the baseline, paired in order.

    `models` names the network of each role whose weights do not say which they belong to.

    Raises
    ------
    LandscapeError
        When the numbers differ, or a network is named twice: its second pair would tell nothing of other trainings.
    """
    counts = {role: len(paths) for role, paths in roles.items() if paths}
    if len(set(counts.values())) != 1:
        counted = ", ".join(f"{count} of the {role}" for role, count in counts.items())
        raise LandscapeError(f"checkpoints are paired in order, but there are {counted}: give as many of each")
    for role, paths in roles.items():
        first: dict[str, Path] = {}
        for path in paths:
            content = files.sha256(path) if path.is_file() else str(path.resolve())
            if content in first:
                raise LandscapeError(
                    f"{first[content]} and {path} are one training of the {role}: pairs count as independent "
                    "trainings, give each once"
                )
            first[content] = path
    return [
        Network(role, _told(path), seed, path, (models or {}).get(role))
        for role, paths in roles.items()
        for seed, path in enumerate(paths)
    ]


def _told(path: Path) -> str:
    recipe = checkpoint.read_recipe(path)
    return re.sub(r"-seed\d+$", "", path.stem) if recipe is None else str(recipe.get("recipe", path.stem))


def training_cost(recipe: Recipe, root: Path | None) -> tuple[float, int]:
    """Seconds of a training step of a recipe on this machine, and how many steps its training takes."""
    step_seconds(recipe, root)  # the first call is slower than those that follow
    seconds = min(step_seconds(recipe, root) for _ in range(2))
    images = len(data.load(recipe.data, "train", root=root))
    return seconds, -(-images // recipe.batch) * recipe.trained_epochs
