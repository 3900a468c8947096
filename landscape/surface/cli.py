"""Command line of the loss surfaces."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landscape import command, compute, store, surface
from landscape.errors import LandscapeError
from landscape.surface.choices import VIEWS

if TYPE_CHECKING:
    import xarray
    from torch import Tensor

    from landscape.objective import Objective
    from landscape.store.journal import Journal
    from landscape.surface.directions import Directions

NAME = "landscape.surface"
DESCRIPTION = """Loss surface: the regularised loss, its terms and the metrics over a plane or line through the weights.

Every cell states its standard error; flatness, roughness and basins are given as numbers."""
DIRECTIONS = ("random", "hessian")


def add_arguments(parser: command.Parser) -> None:
    """Add its flags: where the cells lie, how each is measured, and what is drawn."""
    where = parser.add_argument_group("where: points w + a d1 + b d2")
    where.add_argument("--points", type=command.positive, metavar="N", help="cells along each axis (default: 21)")
    where.add_argument("--span", type=float, metavar="S", help="the square [-S, S]^2 (default: 1)")
    where.add_argument(
        "--directions",
        default="random",
        metavar="random|hessian|FILE",
        help="Gaussian, the top eigenvectors, or those in a file",
    )
    where.add_argument("--save-directions", type=Path, metavar="FILE", help="keep them, for other networks or reruns")
    where.add_argument(
        "--planes", type=command.positive, default=1, metavar="K", help="several, of seeds S, S + 1, ..."
    )
    where.add_argument("--line", action="store_true", help="one direction instead of two")
    where.add_argument("--between", metavar="CKPT", help="the line to another checkpoint, with the barrier's height")
    where.add_argument("--through", nargs=2, metavar="CKPT", help="the plane through two other checkpoints")
    where.add_argument(
        "--trajectory", nargs="+", metavar="CKPT", help="principal plane of earlier checkpoints, in order"
    )
    how = parser.add_argument_group("advanced: cells")
    how.add_argument("--passes", type=command.positive, default=1, metavar="T", help="fresh mask draws per cell")
    how.add_argument("--keep-losses", action="store_true", help="save the loss of every image, for resampling")
    how.add_argument("--precision", choices=("full", "bfloat16"), default="full", help="of the forward passes")
    how.add_argument("--tolerance", type=float, metavar="X", help="interpolate where that is right to X nats")
    how.add_argument("--stderr", metavar="X|P%", help="only as many images as this standard error needs")
    how.add_argument(
        "--curvature-map",
        type=command.positive,
        metavar="M",
        help="extreme Hessian eigenvalues in M x M cells of the same square",
    )
    how.add_argument("--frames", type=command.positive, default=1, metavar="K", help="redraw the masks K times")
    show = parser.add_argument_group("pictures")
    show.add_argument("--view", choices=VIEWS, default="contour", help="of --plot (default: contour)")
    show.add_argument("--quantity", default="loss", metavar="NAME", help="what is drawn (default: loss)")
    show.add_argument("--level", type=float, metavar="X", help="upper end of the scale")
    show.add_argument("--html", type=Path, metavar="FILE", help="an offline page with a surface one can turn")
    show.add_argument("--gif", type=Path, metavar="FILE", help="the --frames as an animation")
    show.add_argument("--vtp", type=Path, metavar="FILE", help="for ParaView")
    show.add_argument(
        "--from-csv", type=Path, action="append", metavar="FILE", help="draw a published file; may repeat"
    )


@dataclass(frozen=True)
class Outcome:
    """The surfaces that are shown, published ones last, and every plane or frame that was measured, by network."""

    surfaces: list[xarray.Dataset]
    measured: list[list[xarray.Dataset]]


def combined(arguments: argparse.Namespace, results: list[list[xarray.Dataset]]) -> Outcome:
    """Measured surfaces and published ones; the latter alone are saved to ``--out``."""
    read = [_published(path) for path in arguments.from_csv or []]
    if arguments.out is not None and compute.distributed.is_main():
        for published in read:
            surface.summary.summarize(published)  # raises before anything is written
        save_published(arguments, read)
    return Outcome([planes[0] for planes in results] + read, results)


def facts(arguments: argparse.Namespace, outcome: Outcome) -> dict[str, Any]:
    """JSON-ready, with the spread over several planes or frames."""
    of_each = [to_json(result) for result in outcome.surfaces]
    for fact, planes in zip(of_each, outcome.measured, strict=False):
        if len(planes) > 1:
            fact["planes" if arguments.planes > 1 else "frames"] = surface.summary.spread(
                [surface.summary.summarize(one) for one in planes]
            )
    return command.one_or_all(of_each)


def check(arguments: argparse.Namespace) -> None:
    """Refuses what contradicts itself."""
    if not arguments.checkpoints and not arguments.from_csv and not arguments.model:
        raise LandscapeError("nothing to measure: give a checkpoint, or --from-csv FILE")
    given = [name for name in ("line", "between", "through", "trajectory") if getattr(arguments, name)]
    if len(given) > 1:
        raise LandscapeError(f"--{given[0]} and --{given[1]} exclude each other: give one")
    if given and given != ["line"] and arguments.directions != "random":
        raise LandscapeError(f"--{given[0]} decides the directions: leave out --directions")
    if arguments.planes > 1 and (given not in ([], ["line"]) or arguments.directions != "random"):
        raise LandscapeError("--planes needs random directions: leave out what fixes them")
    if arguments.planes > 1 and arguments.frames > 1:
        raise LandscapeError("--planes and --frames exclude each other: give one")
    if arguments.gif is not None and arguments.frames < 2:
        raise LandscapeError("an animation needs --frames 2 or more, and --dropout fresh or fixed")
    flat = bool(arguments.line or arguments.between)
    of_plane = ("html", "vtp", "gif", "curvature_map", "keep_losses")
    if flat and any(getattr(arguments, name) for name in of_plane):
        raise LandscapeError("--html, --vtp, --gif, --curvature-map and --keep-losses need a plane, not a line")
    if arguments.curvature_map == 1:
        raise LandscapeError("--curvature-map 1 is not a lattice: give 2 or more")
    # Results hold no directions: --save-directions draws them again.
    arguments.force = arguments.force or arguments.save_directions is not None
    for name in ("html", "gif", "vtp", "save_directions"):
        if getattr(arguments, name) is not None:
            command.require_writable(getattr(arguments, name))


def surfaces(arguments: argparse.Namespace, subject: command.Subject) -> list[xarray.Dataset]:
    """The surface of one subject; several for ``--planes`` or ``--frames``."""
    if arguments.frames > 1 and subject.protocol.dropout == "off":
        raise LandscapeError("--frames redraws dropout masks, which are off: give --dropout fresh or fixed")
    results = []
    for index in range(max(arguments.planes, arguments.frames)):
        one = subject
        seed = arguments.seed
        if arguments.frames > 1 and index:
            mask_seed = subject.protocol.mask_seed + index
            one = dataclasses.replace(subject, protocol=subject.protocol.replace(mask_seed=mask_seed))
        elif arguments.planes > 1:
            seed += index
        label = "" if index == 0 else f"{'plane' if arguments.planes > 1 else 'frame'}-{index + 1}"
        results.append(measured(arguments, one, seed=seed, label=label))
    return results


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What decides the result besides checkpoint, data, protocol and seed."""
    chosen: dict[str, Any] = {
        "points": _points(arguments),
        "span": arguments.span,
        "line": arguments.line,
        "passes": arguments.passes,
        "precision": arguments.precision,
        "tolerance": arguments.tolerance,
        "stderr": arguments.stderr,
        "curvature_map": arguments.curvature_map,
        "directions": arguments.directions,
    }
    # Only where it is set: results of commands without it keep their address.
    if arguments.keep_losses:
        chosen["keep_losses"] = True
    if arguments.directions not in DIRECTIONS:
        chosen["directions"] = store.files.sha256(Path(arguments.directions))
    for name in ("between", "through", "trajectory"):
        given = getattr(arguments, name)
        if given:
            names = [given] if isinstance(given, str) else given
            chosen[name] = [store.files.sha256(command.checkpoint_path(one, arguments)) for one in names]
    return chosen


def _points(arguments: argparse.Namespace) -> int:
    if arguments.points is not None:
        return int(arguments.points)
    # 21 cells per axis as in the authors' code; a line costs little, and shows more.
    return 51 if arguments.line or arguments.between else 21


def measured(arguments: argparse.Namespace, subject: command.Subject, *, seed: int, label: str = "") -> xarray.Dataset:
    """One surface, from the cache when it is there."""
    question = command.question(arguments, NAME, subject, settings(arguments))
    out = question.out
    if out is not None and label:
        out = store.files.beside(out, label)
    question = dataclasses.replace(question, seed=seed, out=out)

    def measure(journal: Journal) -> xarray.Dataset:
        from landscape.objective import fit
        from landscape.objective.operators import NoSecondDerivative

        objective = command.objective(arguments, subject)
        axes = chosen_directions(arguments, objective, seed=seed)
        if arguments.save_directions is not None and compute.distributed.is_main():
            surface.saved_directions.save(axes, objective, arguments.save_directions)
        of: Callable[..., xarray.Dataset] = surface.line if len(axes) == 1 else surface.plane
        result = of(
            objective,
            directions=axes,
            points=_points(arguments),
            span=_span(arguments, axes),
            passes=arguments.passes,
            precision=arguments.precision,
            tolerance=arguments.tolerance,
            stderr=arguments.stderr,
            seed=seed,
            journal=journal,
            quiet=arguments.quiet,
            **({"keep_losses": True} if arguments.keep_losses else {}),
        )
        try:
            result = result.merge(surface.curvature.along_axes(objective, axes))
        except NoSecondDerivative as error:
            command.caution(f"without curvature along the axes: {error}")
        result = result.assign_attrs(fit.fit(objective).attributes())
        if arguments.curvature_map is not None:
            coordinates = surface.measure.grid(arguments.curvature_map, _span(arguments, axes), 2)
            result = result.merge(
                surface.curvature.over_cells(
                    objective, axes, coordinates, seed=seed, journal=journal, quiet=arguments.quiet
                )
            )
        return result

    result = command.answer(question, measure, force=arguments.force)
    command.caution_about_fit(result.attrs)
    return result


def chosen_directions(arguments: argparse.Namespace, objective: Objective, *, seed: int) -> Directions:
    """The directions that the command line asks for."""
    count = 1 if arguments.line else 2
    own = store.files.stem(arguments.checkpoints[0]) if arguments.checkpoints else "network"
    if arguments.between:
        (other,) = _others(arguments, objective, [arguments.between])
        return surface.directions.between(objective, other, names=(own, store.files.stem(arguments.between)))
    if arguments.through:
        names = [own, *map(store.files.stem, arguments.through)]
        return surface.directions.through(objective, _others(arguments, objective, arguments.through), names=names)
    if arguments.trajectory:
        return surface.directions.trajectory(objective, _others(arguments, objective, arguments.trajectory))
    if arguments.directions == "hessian":
        return surface.directions.hessian_directions(objective, count, seed=seed)
    if arguments.directions != "random":
        directions = surface.saved_directions.load(arguments.directions, objective)
        if len(directions) < count:
            raise LandscapeError(f"{arguments.directions} holds one direction, a plane needs two: add --line")
        if len(directions) > count:
            directions = surface.Directions(directions.vectors[:count], kind=directions.kind, facts=directions.facts)
        return directions
    return surface.directions.random_directions(objective, count, seed=seed)


def _others(arguments: argparse.Namespace, objective: Objective, names: Sequence[str]) -> list[Tensor]:
    """Flat weights (P,) of other checkpoints."""
    return [
        surface.directions.point_of(
            objective, dict(command.load_checkpoint(arguments, name).model.named_parameters()), name
        )
        for name in names
    ]


def _span(arguments: argparse.Namespace, axes: Directions) -> Any:
    """[-S, S] along each axis, or what holds all marks and the path with a margin."""
    if arguments.span is not None:
        return arguments.span
    points = list(axes.marks.values()) + ([] if axes.path is None else axes.path.tolist())
    if not points:
        return 1.0
    low, high = map(min, zip(*points, strict=True)), map(max, zip(*points, strict=True))
    # A line runs from network to network; around a plane, a quarter more shows what lies behind them.
    margin = 0.0 if len(axes) == 1 else 0.25
    return [(float(a - margin * (b - a)), float(b + margin * (b - a))) for a, b in zip(low, high, strict=True)]


def _published(path: Path) -> xarray.Dataset:
    """A published surface, with the loss under our name for it."""
    dataset = store.published.read_surface(path)
    dataset["loss"] = dataset["nll"].assign_attrs(long_name="NLL, as published", units="nats")
    return dataset.assign_attrs(
        store.result.provenance(instrument=NAME, settings={"from_csv": store.files.sha256(path)})
    )


def save_published(arguments: argparse.Namespace, surfaces: Sequence[xarray.Dataset]) -> None:
    """Save published surfaces as NetCDF where ``--out`` says; beside measured ones each under its own name."""
    out: Path = arguments.out
    if len(surfaces) == 1 and not arguments.checkpoints:
        arguments.saved.append(store.result.save(surfaces[0], out))
        return
    names = [Path(dataset.attrs["source"]).stem for dataset in surfaces]
    if len(set(names)) < len(names):
        raise LandscapeError("--from-csv names two files alike, which --out cannot tell apart: save one at a time")
    for name, dataset in zip(names, surfaces, strict=True):
        arguments.saved.append(store.result.save(dataset, out.with_name(f"{out.stem}-{name}{out.suffix}")))


def draw(arguments: argparse.Namespace, outcome: Outcome) -> list[Path]:
    """The picture, the page, the animation, the file for ParaView."""
    options = {"variable": arguments.quantity, "level": arguments.level}
    drawn: list[Path] = []
    if arguments.plot is not None:
        surface.pictures.draw(outcome.surfaces, arguments.plot, view=arguments.view, **options)
        drawn.append(arguments.plot)
    if arguments.html is not None:
        drawn.append(surface.html.write(outcome.surfaces, arguments.html, **options))
    if arguments.vtp is not None:
        for index, result in enumerate(outcome.surfaces):
            path = _numbered(arguments.vtp, index, len(outcome.surfaces))
            surface.vtp.write(result, path, variable=arguments.quantity)
            drawn.append(path)
    if arguments.gif is not None:
        for index, frames in enumerate(outcome.measured):
            path = _numbered(arguments.gif, index, len(outcome.measured))
            surface.pictures.animate(frames, path, **options)
            drawn.append(path)
    return drawn


def _numbered(path: Path, index: int, count: int) -> Path:
    return path if count == 1 else path.with_name(f"{path.stem}-{index + 1}{path.suffix}")


def plan(arguments: argparse.Namespace, subject: command.Subject) -> str:
    """Cells, seconds and memory that the measurement will cost, by measuring one cell on a few images."""
    objective = command.objective(arguments, subject)
    axes = chosen_directions(arguments, objective, seed=arguments.seed)
    cells = surface.cells.Cells(objective, axes, passes=arguments.passes, precision=arguments.precision)
    images = min(objective.images, 2 * cells.inference.micro_batch)
    cells.losses([0.0] * len(axes), number=0, images=images)
    started = time.perf_counter()
    cells.losses([0.0] * len(axes), number=0, images=images)
    seconds = (time.perf_counter() - started) * objective.images / images
    count = _points(arguments) ** len(axes) * max(arguments.planes, arguments.frames)
    bound = "at most " if arguments.tolerance or arguments.stderr else ""
    staged = objective.data.nbytes / 2**20
    return (
        f"{subject.name}: {count} cells of {objective.images} images, {cells.passes} pass{'es' * (cells.passes > 1)}; "
        f"{bound}{count * seconds:.0f} s at {seconds:.2g} s per cell; images staged in {staged:.0f} MiB; batch norm "
        f"folded per cell, channels-last, micro-batches of {cells.inference.micro_batch}"
    )


def to_json(result: xarray.Dataset) -> dict[str, Any]:
    """Cells, numbers and provenance, JSON-ready; rows over alpha."""
    facts = command.facts_of(result.drop_vars("mark", errors="ignore"), without=())
    return facts | {"summary": surface.summary.summarize(result).to_dict()}


INSTRUMENT = command.Instrument(
    name=NAME,
    summary="the loss on a plane through weight space: how flat, how rough, how sure",
    description=DESCRIPTION,
    add_arguments=add_arguments,
    check=check,
    measured=surfaces,
    plan=plan,
    compared=lambda results: [planes[0] for planes in results],
    combined=combined,
    table=lambda arguments, outcome: surface.table.table(
        outcome.surfaces, planes=outcome.measured if arguments.planes > 1 else []
    ),
    facts=facts,
    draw=draw,
)
parser, main = INSTRUMENT.parser, INSTRUMENT.main
