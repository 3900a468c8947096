"""What the Hessian command measures instead of the plain spectrum: one entry per flag, all run alike."""

import argparse
import dataclasses
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray
from matplotlib.figure import Figure

from landscape import command
from landscape.data import Data
from landscape.errors import LandscapeError
from landscape.hessian import (
    activations,
    blocks,
    image_groups,
    mini_batches,
    over_masks,
    pyhessian_solver,
    sharpness,
    split,
)
from landscape.hessian.diagonal import diagonal, table as diagonal_table
from landscape.objective import CurvatureOperator, Objective
from landscape.objective.operators import MATRICES
from landscape.objective.preparation import examples
from landscape.store.files import sha256
from landscape.store.journal import Journal
from landscape.surface import saved_directions

Settings = dict[str, Any]


@dataclass(frozen=True)
class Measurement:
    """One thing that the command can measure.

    Attributes
    ----------
    flag
        The flag that selects it.
    selected_by
        Whether a command line selects it.
    settings
        The settings that a command line gives; they decide the result.
    measure
        Measures an objective with these settings as keywords; also takes those of seed, quiet and journal that it
        names.
    table
        Results as text.
    products
        Approximate number of products, for `--plan`.
    draw
        Draws results to a path, or None when there is no picture.
    sharded
        Whether examples are distributed over processes under torchrun (otherwise pieces of the work are).
    """

    flag: str
    selected_by: Callable[[argparse.Namespace], bool]
    settings: Callable[[argparse.Namespace], Settings]
    measure: Callable[..., xarray.Dataset]
    table: Callable[[Sequence[xarray.Dataset]], str]
    products: Callable[[Settings], int]
    draw: Callable[[Sequence[xarray.Dataset], Path], Figure] | None = None
    sharded: bool = True

    def run(self, objective: Objective, settings: Settings, how: Mapping[str, Any]) -> xarray.Dataset:
        """Measure an objective, with those of seed, quiet and journal (`how`) that `measure` takes."""
        accepted = inspect.signature(self.measure).parameters
        return self.measure(objective, **settings, **{name: how[name] for name in how if name in accepted})


def selected(arguments: argparse.Namespace) -> Measurement | None:
    """The measurement that a command line selects, or None for the plain spectrum; also completes its defaults.

    Raises
    ------
    LandscapeError
        When it selects two at once, or a picture that does not exist.
    """
    chosen = [measurement for measurement in MEASUREMENTS if measurement.selected_by(arguments)]
    if len(chosen) > 1:
        flags = " and ".join(measurement.flag for measurement in chosen)
        raise LandscapeError(f"{flags} are different measurements: give one at a time")
    if arguments.consecutive and arguments.per_batch is None:
        raise LandscapeError("--consecutive says which images mini-batches hold: give --per-batch, too")
    if not chosen:
        return None
    if arguments.plot is not None and chosen[0].draw is None:
        raise LandscapeError(f"there is no picture of {chosen[0].flag}: leave out --plot")
    if chosen[0] is MINI_BATCHES:
        # The paper's spectrum is of the training objective, augmentation included, on as many images as needed.
        arguments.default_augmentation = "frozen"
        arguments.images = arguments.images or "all"
    return chosen[0]


def arranged(subject: command.Subject, arguments: argparse.Namespace) -> command.Subject:
    """The subject with examples in the order of its mini-batches, epoch by epoch, where mini-batches are measured."""
    if arguments.measurement is not MINI_BATCHES or arguments.consecutive:
        return subject
    protocol = subject.protocol
    count = arguments.per_batch * arguments.batches
    # The sample first, then its order; the augmentation is drawn last, by position.
    sample: Data = examples(subject.data, protocol.replace(augmentation="none"))
    ordered = mini_batches.epochs(sample, count, seed=protocol.subset_seed)
    return dataclasses.replace(subject, data=ordered, protocol=protocol.replace(images=count))


def plan(arguments: argparse.Namespace, subject: command.Subject) -> str:
    """Products, seconds and memory that the measurement will cost, estimated from the product of one micro-batch."""
    chosen = arguments.measurement
    settings = chosen.settings(arguments)
    objective = command.objective(arguments, arranged(subject, arguments), sharded=chosen.sharded)
    if chosen.flag == "--at":
        return f"{subject.name}: {activations.cost(objective, **settings)}"
    size = settings.get("per_batch")
    operator = (
        CurvatureOperator(objective)
        if size is None
        else CurvatureOperator(objective, first=0, last=size, micro_batch=size)
    )
    return cost(subject.name, operator, chosen.products(settings))


def cost(name: str, operator: CurvatureOperator, products: int) -> str:
    """One line: how many products, of how many seconds, in how much memory."""
    seconds = operator.predicted_seconds()
    return (
        f"{name}: {operator.size} parameters, {operator.objective.images} {operator.objective.kind_of_examples}; "
        f"about {products} products of "
        f"{seconds:.2g} s, {products * seconds:.0f} s in all; {operator.plan}"
    )


def table(results: Sequence[xarray.Dataset], chosen: Measurement) -> str:
    """The numbers side by side, with what was measured below."""
    return "\n".join([chosen.table(results), *notes(results)])


def to_json(result: xarray.Dataset) -> dict[str, Any]:
    """Every variable and coordinate by name, and provenance, JSON-ready."""
    facts = command.facts_of(result, without=("coordinate",))  # one number per weight
    # As in the JSON of the plain spectrum.
    shared = {"products": "hvps", "eigenvalue": "eigenvalues", "residual": "residuals"}
    return {shared.get(name, name): value for name, value in facts.items()}


def notes(results: Sequence[xarray.Dataset]) -> list[str]:
    """What was measured, on which images, and how well each network fits them."""
    first = results[0].attrs
    loss = json.loads(first["protocol"]).get("loss", "cross_entropy")
    of_what = "" if loss == "cross_entropy" else f", {loss},"
    lines = [
        f"{MATRICES.get(first['operator'], first['operator'])}{of_what} on {first.get('sample', first['data'])}, "
        f"protocol {first['protocol_hash']}."
    ]
    fits = {str(result.attrs["name"]): command.fit_in_words(result.attrs) for result in results}
    return lines + [f"{name}: {words}." for name, words in fits.items() if words]


def _pairs(top: int) -> int:
    # Lanczos takes about 3 products per pair on spectra of trained classifiers, and as many again to be sure.
    return 4 * top + 20


def _only(arguments: argparse.Namespace) -> Settings:
    """The parts that PyHessian measures: by default all that it can."""
    if "density" in (arguments.only or ()):
        raise LandscapeError(pyhessian_solver.NO_DENSITY)
    return {"top": arguments.top, "only": sorted(arguments.only or ("top", "trace"))}


def _common(arguments: argparse.Namespace, **more: Any) -> Settings:
    return {
        "top": arguments.top,
        "operator": arguments.operator,
        "tolerance": arguments.tolerance,
        "trace_products": arguments.trace_products,
        **more,
    }


def _mini_batch_settings(arguments: argparse.Namespace) -> Settings:
    settings: Settings = {
        "per_batch": arguments.per_batch,
        "batches": arguments.batches,
        "top": arguments.top,
        "operator": arguments.operator,
        "tolerance": arguments.tolerance,
    }
    # Only where they are given, so that results of commands without them keep their key.
    if arguments.masks is not None:
        settings["masks"] = arguments.masks
    if arguments.consecutive:
        settings["consecutive"] = True
    return settings


def _sharpness_settings(arguments: argparse.Namespace) -> Settings:
    along = arguments.along
    if along is not None and not along.is_file():
        raise LandscapeError(f"no directions at {along}: give a file that --save-vectors or --save-directions wrote")
    return _common(
        arguments,
        scale_free=arguments.scale_free,
        sharpness=arguments.sharpness,
        epsilon=arguments.epsilon,
        radius=arguments.radius,
        along=None if along is None else str(along),
        along_sha256=None if along is None else sha256(along),
    )


def _measure_sharpness(objective: Objective, *, seed: int, quiet: bool, **settings: Any) -> xarray.Dataset:
    parts = []
    if settings["scale_free"]:
        shared = {name: settings[name] for name in ("top", "operator", "tolerance", "trace_products")}
        parts.append(sharpness.scale_free_spectrum(objective, **shared, seed=seed, quiet=quiet))
    if settings["sharpness"] or settings["along"] is not None:
        directions = {}
        if settings["along"] is not None:
            vectors = saved_directions.load(settings["along"], objective).vectors
            directions = {f"direction {index + 1}": vector for index, vector in enumerate(vectors)}
        shared = {name: settings[name] for name in ("epsilon", "radius", "operator")}
        parts.append(sharpness.sharpness_measures(objective, **shared, directions=directions))
    products = sum(int(part.attrs["products"]) for part in parts)
    return xarray.merge(parts, combine_attrs="override").assign_attrs(products=products)


def _measure_mini_batches(
    objective: Objective, *, seed: int, quiet: bool, journal: Journal, consecutive: bool = False, **settings: Any
) -> xarray.Dataset:
    # `consecutive` has decided the order of the examples (`arranged`).
    return mini_batches.mini_batch_spectra(objective, **settings, seed=seed, quiet=quiet, journal=journal)


MINI_BATCHES = Measurement(
    flag="--per-batch",
    selected_by=lambda arguments: arguments.per_batch is not None,
    settings=_mini_batch_settings,
    measure=_measure_mini_batches,
    table=mini_batches.table,
    draw=mini_batches.draw,
    products=lambda settings: settings["batches"] * _pairs(settings["top"]),
    sharded=False,
)
MEASUREMENTS: tuple[Measurement, ...] = (
    MINI_BATCHES,
    Measurement(
        flag="--blocks",
        selected_by=lambda arguments: arguments.blocks,
        settings=lambda arguments: _common(arguments, depth=arguments.block_depth),
        measure=blocks.block_spectra,
        table=blocks.table,
        draw=blocks.draw,
        # A residual network of the paper has about ten blocks.
        products=lambda settings: 10 * (_pairs(1) + settings["trace_products"]) + _pairs(settings["top"]),
    ),
    Measurement(
        flag="--masks",
        selected_by=lambda arguments: arguments.masks is not None and arguments.per_batch is None,
        settings=lambda arguments: _common(arguments, masks=arguments.masks),
        measure=over_masks.mask_spectra,
        table=over_masks.table,
        products=lambda settings: settings["masks"] * (2 * _pairs(settings["top"]) + settings["trace_products"]),
    ),
    Measurement(
        flag="--mean-hessian",
        selected_by=lambda arguments: arguments.mean_hessian is not None,
        settings=lambda arguments: {"masks": arguments.mean_hessian, "tolerance": arguments.tolerance},
        measure=over_masks.mean_hessian_spectrum,
        table=over_masks.mean_hessian_table,
        products=lambda settings: 2 * settings["masks"] * _pairs(1),
        sharded=False,
    ),
    Measurement(
        flag="--image-groups",
        selected_by=lambda arguments: arguments.image_groups is not None,
        settings=lambda arguments: {
            "group": arguments.image_groups,
            "top": arguments.top,
            "operator": arguments.operator,
            "tolerance": arguments.tolerance,
        },
        measure=image_groups.image_group_spectrum,
        table=image_groups.table,
        products=lambda settings: _pairs(settings["top"]) + 2,
        sharded=False,
    ),
    Measurement(
        flag="--diagonal",
        selected_by=lambda arguments: arguments.diagonal is not None,
        settings=lambda arguments: {"products": arguments.diagonal, "operator": arguments.operator},
        measure=diagonal,
        table=diagonal_table,
        products=lambda settings: settings["products"],
    ),
    Measurement(
        flag="--at",
        selected_by=lambda arguments: arguments.at is not None,
        settings=lambda arguments: {
            "at": arguments.at,
            "examples": arguments.at_examples,
            "top": arguments.top,
            "tolerance": arguments.tolerance,
            "trace_products": arguments.trace_products,
        },
        measure=activations.activation_curvature,
        table=activations.table,
        products=lambda settings: 1,
        sharded=False,
    ),
    Measurement(
        flag="--ggn-split",
        selected_by=lambda arguments: arguments.ggn_split,
        settings=lambda arguments: {name: value for name, value in _common(arguments).items() if name != "operator"},
        measure=split.curvature_split,
        table=split.table,
        products=lambda settings: 5 * _pairs(settings["top"]) + 4 * settings["trace_products"],
    ),
    Measurement(
        flag="--sharpness or --scale-free",
        selected_by=lambda arguments: arguments.sharpness or arguments.scale_free or arguments.along is not None,
        settings=_sharpness_settings,
        measure=_measure_sharpness,
        table=sharpness.table,
        products=lambda settings: _pairs(settings["top"]) + settings["trace_products"],
    ),
    Measurement(
        flag="--solver pyhessian",
        selected_by=lambda arguments: arguments.solver == "pyhessian",
        settings=_only,
        measure=pyhessian_solver.pyhessian_spectrum,
        table=pyhessian_solver.table,
        # Power iteration takes about 15 products per eigenvalue, at most 100.
        products=lambda settings: 15 * settings["top"] + 30,
        sharded=False,
    ),
)
