"""Command line of the Hessian instrument."""

from __future__ import annotations

import argparse
import functools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landscape import command, compute, hessian, objective, store, surface, tables
from landscape.errors import LandscapeError
from landscape.hessian.choices import PARTS

if TYPE_CHECKING:
    import xarray

    from landscape.eigen import Eigenpairs
    from landscape.objective import Objective
    from landscape.store.journal import Journal

NAME = "landscape.hessian"
DESCRIPTION = """Hessian spectrum of the regularised loss at a network's weights.

Top eigenvalues with guaranteed bounds, smallest eigenvalue, trace with standard error, spectral density."""


def add_arguments(parser: command.Parser) -> None:
    """Add its flags: the spectrum, its solver, and the other measurements."""
    basic = parser.add_argument_group("spectrum")
    basic.add_argument("--top", type=command.positive, default=5, metavar="K", help="top eigenvalues (default: 5)")
    basic.add_argument(
        "--only",
        choices=PARTS,
        action="append",
        metavar="PART",
        help="top, trace or density; may repeat (default: all)",
    )
    basic.add_argument(
        "--operator", choices=("hessian", "ggn", "fisher"), default="hessian", help="which curvature (default: hessian)"
    )
    basic.add_argument("--save-vectors", type=Path, metavar="FILE", help="save the top eigenvectors, as safetensors")
    solver = parser.add_argument_group("advanced: solver")
    solver.add_argument(
        "--which",
        choices=("LA", "SA", "LM", "BE"),
        default="LA",
        help="which eigenvalues, as in SciPy's eigsh (default: LA, the largest)",
    )
    solver.add_argument(
        "--tolerance", type=float, default=1e-4, metavar="X", help="relative error of the eigenvalues (default: 1e-4)"
    )
    solver.add_argument(
        "--by-sample",
        action="store_true",
        help="compute eigenvectors on a twentieth of many images first, and refine them on all",
    )
    solver.add_argument(
        "--trace-products", type=command.positive, default=30, metavar="N", help="products of the trace (default: 30)"
    )
    solver.add_argument(
        "--probes", type=command.positive, default=3, metavar="N", help="random vectors of the density (default: 3)"
    )
    solver.add_argument(
        "--steps", type=command.positive, default=40, metavar="N", help="Lanczos steps per probe (default: 40)"
    )
    solver.add_argument(
        "--solver", choices=("lanczos", "pyhessian"), default="lanczos", help="ours, or PyHessian's (default: lanczos)"
    )
    _add_measurements(parser)


def _add_measurements(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `hessian.measurements`."""
    group = parser.add_argument_group("advanced: instead of the plain spectrum, one of")
    group.add_argument("--per-batch", type=command.positive, metavar="N", help="top eigenvalues of mini-batches of N")
    group.add_argument(
        "--batches", type=command.positive, default=512, metavar="N", help="number of mini-batches (default: 512)"
    )
    group.add_argument(
        "--consecutive", action="store_true", help="mini-batches of the sample in its own order, not in random epochs"
    )
    group.add_argument("--blocks", action="store_true", help="top eigenvalue and trace of every block of parameters")
    group.add_argument(
        "--block-depth", type=command.positive, default=2, metavar="N", help="1 stages, 2 blocks (default), 9 layers"
    )
    group.add_argument(
        "--masks",
        type=command.positive,
        metavar="M",
        help="over M draws of the dropout masks; beside --per-batch, of the Hessian averaged over them",
    )
    group.add_argument(
        "--mean-hessian",
        type=command.positive,
        metavar="M",
        help="top eigenvalue of the Hessian averaged over M draws of the masks, raw and filter-normalised",
    )
    group.add_argument(
        "--image-groups",
        type=command.positive,
        metavar="N",
        help="top eigenvalues, and what each group of N images adds to the first, for resampling",
    )
    group.add_argument("--diagonal", type=command.positive, metavar="N", help="diagonal and row norms, from N products")
    group.add_argument("--at", metavar="MODULE", help="curvature of each example in the output of a module")
    group.add_argument(
        "--at-examples", type=command.positive, default=16, metavar="N", help="number of examples (default: 16)"
    )
    group.add_argument("--ggn-split", action="store_true", help="eigenvalues split into GGN and residual")
    group.add_argument("--scale-free", action="store_true", help="eigenvalues in filter-normalised coordinates")
    group.add_argument("--sharpness", action="store_true", help="sharpness measures; can be combined with --scale-free")
    group.add_argument("--epsilon", type=float, default=1e-3, metavar="E", help="of epsilon-sharpness (default: 1e-3)")
    group.add_argument("--radius", type=float, default=0.05, metavar="R", help="of SAM sharpness (default: 0.05)")
    group.add_argument("--along", type=Path, metavar="FILE", help="curvature along saved directions")


def check(arguments: argparse.Namespace) -> None:
    """Select the measurement, and refuse flags that do not go with it."""
    arguments.measurement = other = hessian.measurements.selected(arguments)
    if other is not None and arguments.save_vectors is not None:
        raise LandscapeError(f"--save-vectors saves the eigenvectors of the plain spectrum: leave out {other.flag}")
    if arguments.by_sample and (other is not None or arguments.which in ("SA", "BE")):
        what = other.flag if other is not None else f"--which {arguments.which}"
        raise LandscapeError(f"--by-sample is for the largest eigenvalues of the plain spectrum: leave out {what}")
    if other is None and arguments.plot is not None and set(arguments.only or ()) == {"trace"}:
        raise LandscapeError(hessian.picture.NO_PICTURE)
    # Results hold no vectors: --save-vectors computes them again.
    arguments.force = arguments.force or arguments.save_vectors is not None


def draw(arguments: argparse.Namespace, results: list[xarray.Dataset]) -> list[Path]:
    """Density and eigenvalues, or the picture of another measurement."""
    if arguments.plot is None:
        return []
    (hessian.picture.draw if arguments.measurement is None else arguments.measurement.draw)(results, arguments.plot)
    return [arguments.plot]


def settings(arguments: argparse.Namespace, subject: command.Subject) -> dict[str, Any]:
    """What decides the result besides checkpoint, data, protocol and seed."""
    if arguments.measurement is not None:
        return {"measurement": arguments.measurement.flag, **arguments.measurement.settings(arguments)}
    return {
        "top": arguments.top,
        "which": arguments.which,
        "only": [part for part in PARTS if part in (arguments.only or PARTS)],
        "operator": arguments.operator,
        "tolerance": arguments.tolerance,
        "trace_products": arguments.trace_products,
        "probes": arguments.probes,
        "steps": arguments.steps,
        **({"by_sample": True} if arguments.by_sample else {}),
    }


def measure(arguments: argparse.Namespace, subject: command.Subject, journal: Journal) -> xarray.Dataset:
    """The spectrum, or another measurement, and how well the network fits the examples."""
    chosen = arguments.measurement
    function = command.objective(arguments, subject, sharded=chosen is None or chosen.sharded)

    def keep(pairs: Eigenpairs) -> None:
        if arguments.save_vectors is not None and compute.distributed.is_main():
            save_vectors(function, pairs, vectors_path(arguments, subject))

    how = {"seed": arguments.seed, "quiet": arguments.quiet, "journal": journal}
    if chosen is None:
        result = hessian.spectrum(function, **settings(arguments, subject), **how, keep_vectors=keep)
    else:
        result = chosen.run(function, chosen.settings(arguments), how)
    return result.assign_attrs(objective.fit.fit(function).attributes())


def measured(arguments: argparse.Namespace, subject: command.Subject) -> xarray.Dataset:
    """The result of one subject, whose examples some measurements arrange."""
    return INSTRUMENT.answer(arguments, hessian.measurements.arranged(subject, arguments))


def save_vectors(function: Objective, pairs: Eigenpairs, path: Path) -> None:
    """Save eigenvectors by parameter name (``rank/name``), in the format that surfaces take their directions from."""
    facts = {f"eigenvalue_{index + 1}": float(value) for index, value in enumerate(pairs.values)}
    directions = surface.Directions(vectors=pairs.vectors.T.contiguous(), kind="hessian", facts=facts)
    surface.saved_directions.save(directions, function, path)


def vectors_path(arguments: argparse.Namespace, subject: command.Subject) -> Path:
    """Where the eigenvectors of a subject go: one file each."""
    path: Path = arguments.save_vectors
    return path if len(arguments.checkpoints) < 2 else store.files.beside(path, subject.name)


def plan(arguments: argparse.Namespace, subject: command.Subject) -> str:
    """Products, seconds and memory that the measurement will cost, estimated from the product of one micro-batch."""
    if arguments.measurement is not None:
        return hessian.measurements.plan(arguments, subject)
    function = command.objective(arguments, subject, sharded=True)
    operator = objective.CurvatureOperator(function, arguments.operator)
    # On spectra of trained classifiers Lanczos takes about three products per pair, the search for copies among them,
    # and about 20 until the smallest eigenvalue converges. A sample of the images, if it comes first, takes about 50.
    first = hessian.of_sample.sample_size(function.images) if arguments.by_sample else None
    products = {
        "top": max(20, 3 * arguments.top + 5) + (0 if first is None else round(50 * first / function.images)),
        "trace": arguments.trace_products,
        "density": arguments.probes * arguments.steps,
    }
    return hessian.measurements.cost(
        subject.name, operator, sum(products[part] for part in settings(arguments, subject)["only"])
    )


def to_json(result: xarray.Dataset) -> dict[str, Any]:
    """Numbers and provenance, JSON-ready."""
    facts: dict[str, Any] = {}
    if "eigenvalue" in result:
        facts |= {
            "eigenvalues": result["eigenvalue"].values.tolist(),
            "residuals": result["residual"].values.tolist(),
            "errors": result["error"].values.tolist(),
            **{
                name: result[name].values.tolist()
                for name in ("sampling_stderr", "eigenvalue_low", "eigenvalue_high", "sampling_bias")
            },
            "converged": bool(result["converged"].values.all()),
            "smallest_eigenvalue": float(result["smallest_eigenvalue"]),
            "smallest_residual": float(result["smallest_residual"]),
        }
    if "trace" in result:
        facts |= {name: float(result[name]) for name in ("trace", "trace_stderr", "l2_trace")}
    if "node" in result:
        facts["density"] = {"nodes": result["node"].values.tolist(), "weights": result["weight"].values.tolist()}
    attributes = result.attrs
    if "sample_images" in attributes:
        facts["sample"] = {"images": int(attributes["sample_images"]), "hvps": int(attributes["sample_products"])}
    fitted = objective.fit.Fit.of(attributes)
    if fitted is not None:
        facts |= fitted.facts()
        if fitted.loss_name != "cross_entropy":
            facts["loss_name"] = fitted.loss_name
    return facts | {
        "name": attributes["name"],
        "operator": attributes["operator"],
        "hvps": int(attributes["products"]),
        "seconds": float(attributes["seconds"]),
        "parameters": int(attributes["parameters"]),
        "images": int(attributes["images"]),
        "weight_decay": float(attributes["weight_decay"]),
        "protocol": json.loads(attributes["protocol"]),
        "protocol_hash": attributes["protocol_hash"],
        "checkpoint_sha256": attributes["checkpoint_sha256"],
    }


def _smallest(result: xarray.Dataset) -> str:
    # Lanczos finds it from above; only where it is sought itself is its residual what it may be off by.
    bound = "" if result.attrs["which"] in ("SA", "BE") else "at most "
    return bound + tables.value("smallest_eigenvalue", ".3g", "smallest_residual")(result)


def table(results: Sequence[xarray.Dataset]) -> str:
    """The numbers side by side, with what they mean below."""
    rows: list[tables.Row] = []
    if all("eigenvalue" in result for result in results):
        for index in range(max(result.sizes["rank"] for result in results)):
            rows.append((f"eigenvalue {index + 1}", functools.partial(_eigenvalue, index=index)))
        rows.append(("smallest eigenvalue", _smallest))
    if all("trace" in result for result in results):
        rows.append(("trace", lambda result: tables.with_error(float(result["trace"]), float(result["trace_stderr"]))))
        rows.append(("  part of the L2 term", tables.value("l2_trace")))
    rows += [(name, tables.attribute(name)) for name in ("parameters", "images", "products")]
    rows.append(("seconds", tables.attribute("seconds", ".1f")))
    notes = [
        *hessian.measurements.notes(results),
        *dict.fromkeys(note for result in results if "eigenvalue" in result for note in _sampling(result)),
        *_reading(results),
        "± of the trace is one standard error, for its random vectors; of eigenvalues a bound of the numerical error.",
    ]
    if not all(bool(result["converged"].values.all()) for result in results if "converged" in result):
        notes.append("* not converged to the tolerance.")
    return tables.side_by_side(results, rows, notes)


def _sampling(result: xarray.Dataset) -> list[str]:
    """Notes on the error of one result's eigenvalues for the choice of images."""
    name, images = result.attrs["name"], int(result.attrs["images"])
    if not bool((result["sampling_stderr"] > 0).any()):
        return []
    if not bool(result["eigenvalue_low"].notnull().any()):
        return [
            f"{name}: {images} images are too few for an interval of an eigenvalue that holds: give --images "
            f"{hessian.sampling.FEWEST} or more."
        ]
    value, bias = float(result["eigenvalue"][0]), float(result["sampling_bias"][0])
    notes = ["In brackets, the 95 % interval of the population's eigenvalue, for the choice of images."]
    if bias > 0.05 * abs(value):
        notes.append(f"{name}: so few images raise the first eigenvalue, on average by about {bias:.2g}.")
    return notes


def _eigenvalue(result: xarray.Dataset, index: int) -> str:
    if index >= result.sizes["rank"]:
        return ""
    value, low, high = (float(result[name][index]) for name in ("eigenvalue", "eigenvalue_low", "eigenvalue_high"))
    known = math.isfinite(low) and high > low
    half = (high - low) / 2 if known else math.nan
    text = tables.digits(value, half)
    if not bool(result["converged"][index]):
        text += f" ± {float(result['residual'][index]):.1g}*"
    if known:
        text += f" [{tables.digits(low, half)}, {tables.digits(high, half)}]"
    return text


def _reading(results: Sequence[xarray.Dataset]) -> list[str]:
    """How the networks compare, one sentence each."""
    if len(results) < 2 or not all("eigenvalue" in result for result in results):
        return []
    ends = [(float(result["eigenvalue_low"][0]), float(result["eigenvalue_high"][0])) for result in results]
    return tables.compared(
        "the largest eigenvalue",
        [str(result.attrs["name"]) for result in results],
        [float(result["eigenvalue"][0]) for result in results],
        ends,
    )


INSTRUMENT = command.Instrument(
    name=NAME,
    summary="top eigenvalues with guaranteed bounds, smallest eigenvalue, trace, spectral density",
    description=DESCRIPTION,
    add_arguments=add_arguments,
    check=check,
    settings=settings,
    measure=measure,
    measured=measured,
    plan=plan,
    table=lambda arguments, results: (
        table(results) if arguments.measurement is None else hessian.measurements.table(results, arguments.measurement)
    ),
    facts=lambda arguments, results: command.one_or_all(
        [
            to_json(result) if arguments.measurement is None else hessian.measurements.to_json(result)
            for result in results
        ]
    ),
    draw=draw,
)
parser, main = INSTRUMENT.parser, INSTRUMENT.main
