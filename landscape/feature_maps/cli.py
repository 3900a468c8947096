"""Command line of the feature-map instrument."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landscape import command, feature_maps, look
from landscape.errors import LandscapeError

if TYPE_CHECKING:
    import xarray

    from landscape.store.journal import Journal

NAME = "landscape.feature_maps"
DESCRIPTION = """Model and data uncertainty of feature maps by depth, over Monte-Carlo dropout passes.

model_std: standard deviation over dropout masks; data_std: over positions within a pass; relative: divided by the map's
own root mean square. Of several networks, the first is the one that the others are compared with, image by image."""


def add_arguments(parser: command.Parser) -> None:
    """Those of this instrument alone."""
    # The paper's figure is on test images, with masks drawn anew.
    parser.set_defaults(split="test", dropout="fresh")
    group = parser.add_argument_group("feature maps")
    group.add_argument("--passes", type=command.positive, default=50, metavar="T", help="masks an image (default: 50)")
    add_blocks(group)
    group.add_argument("--image", type=int, metavar="K", help="show the maps of image K of the split instead")


def add_blocks(group: Any) -> None:
    """The argument that names blocks."""
    group.add_argument(
        "--blocks", metavar="PATTERN,...", help="names of blocks, e.g. 'layer*.*'; default: by structure"
    )


def draw(arguments: argparse.Namespace, results: list[xarray.Dataset]) -> list[Path]:
    """Curves over depth, or the maps of one image."""
    if arguments.plot is None:
        return []
    (feature_maps.picture.draw if arguments.image is None else feature_maps.picture.draw_maps)(results, arguments.plot)
    return [arguments.plot]


def measured(arguments: argparse.Namespace, subject: command.Subject) -> xarray.Dataset:
    """The result of one subject, from the cache when it is there."""
    settings = {"passes": arguments.passes, "blocks": arguments.blocks, "image": arguments.image}
    asked = command.question(arguments, NAME, subject, settings)
    common = {
        "protocol": subject.protocol,
        "passes": arguments.passes,
        "blocks": arguments.blocks,
        "device": command.device(arguments),
    }

    def measure(journal: Journal) -> xarray.Dataset:
        model, data = subject.checkpoint.model, subject.data
        if arguments.image is not None:
            return feature_maps.maps.measure(model, data, arguments.image, **common)
        result = feature_maps.measure(
            model, data, **common, batch=arguments.batch, journal=journal, quiet=arguments.quiet
        )
        return command.with_fit(arguments, subject, result)

    result = command.journaled(asked, measure, force=arguments.force)
    command.caution_about_fit(result.attrs)
    return result


def plan(arguments: argparse.Namespace, subject: command.Subject) -> str:
    """Passes and seconds that the measurement will cost, by timing a batch."""
    runs = look.forward.Passes(
        subject.checkpoint.model,
        subject.data,
        protocol=subject.protocol,
        blocks=arguments.blocks,
        batch=arguments.batch,
        device=command.device(arguments),
    )
    start, stop = runs.batches(0, len(runs))[0]
    images = runs.images(start, stop)
    runs.stochastic(images, start, range(1))
    started = time.perf_counter()
    runs.stochastic(images, start, range(2))
    seconds = (time.perf_counter() - started) / 2 / (stop - start)
    passes = arguments.passes if runs.dropout_calls else 1
    entries = sum(point.channels * point.height * point.width for point in runs.depths.points)
    memory = 4 * entries * runs.batch * runs.dtype.itemsize
    return (
        f"{subject.name}: {len(runs.depths)} points, {runs.dropout_calls} dropout layers; {len(runs)} images x "
        f"{passes} passes at {seconds * 1e3:.2g} ms, about {len(runs) * passes * seconds:.0f} s "
        f"and {memory / 2**20:.0f} MiB"
    )


def to_json(result: xarray.Dataset) -> dict[str, Any]:
    """Everything but the values of single images."""
    facts = {str(name): result[name].values.tolist() for name in result.variables if "image" not in result[name].dims}
    return facts | provenance_facts(result)


def provenance_facts(result: xarray.Dataset) -> dict[str, Any]:
    """The attributes that every JSON carries."""
    attributes = {name: value.item() if hasattr(value, "item") else value for name, value in result.attrs.items()}
    return attributes | {name: json.loads(attributes[name]) for name in ("protocol", "settings")}


def table(results: Sequence[xarray.Dataset]) -> str:
    """One row a point; one group of columns a network; below, the paired comparison at the end of each stage."""
    quantities = {"model_std": "model std", "relative_model_std": "relative", "data_std": "data std"}
    head = ["point", "map"]
    for place, _ in enumerate(results):
        head += [f"{what} [{place + 1}]" for what in quantities.values()] + [f"masks' share [{place + 1}]"]
    rows = []
    for name in look.comparison.ordered_union([list(result["point"].values) for result in results]):
        row: list[str] = [name, ""]
        for result in results:
            if name not in result["point"].values:
                row += ["-"] * (len(quantities) + 1)
                continue
            point = result.sel(point=name)
            row[1] = map_size(point, row[1])
            row += [f"{float(point[what]):.4g}±{float(point[f'{what}_stderr']):.1g}" for what in quantities]
            masks, images = float(point["variance_between_masks"]), float(point["variance_between_images"])
            row.append(f"{masks / (masks + images):.0%}" if masks + images > 0 else "-")
        rows.append(row)
    lines = [f"[{place + 1}] {legend(result)}" for place, result in enumerate(results)]
    lines += ["", command.columns(head, rows), "± standard error over images"]
    return "\n".join([*lines, *compared(results, "model_std_of_image", "model std")])


def map_size(point: xarray.Dataset, before: str) -> str:
    """Size of a map behind the sizes that other networks have at this point, where they differ."""
    size = f"{int(point['channels'])}x{int(point['height'])}x{int(point['width'])}"
    return size if before in ("", size) else f"{before}, {size}"


def legend(result: xarray.Dataset) -> str:
    """One line that says what was measured on what."""
    attributes = result.attrs
    on = f"{attributes['images']} images of {attributes['data']}"
    words = [f"{attributes['name']} on {on}, {attributes['passes']} passes", command.fit_in_words(attributes)]
    return "; ".join(word for word in words if word)


def compared(results: Sequence[xarray.Dataset], variable: str, what: str, *, ratio: bool = True) -> list[str]:
    """Lines with the ratio (or difference) to the first network after each stage, where they can be compared."""
    lines = []
    name, sign = ("ratio", "/") if ratio else ("difference", "-")
    interval = "ratio_interval" if ratio else "interval"
    for place, other in enumerate(results[1:], start=2):
        try:
            effect = look.comparison.paired(results[0], other, variable)
        except LandscapeError as error:
            lines.append(f"{what} [{place}] against [1]: {error}")
            continue
        cells = [
            f"{float(effect[name][stage]):.3f} ({low:.3f} to {high:.3f}; {float(effect['effect_size'][stage]):+.1f})"
            for stage, (low, high) in enumerate(effect[interval].values)
        ]
        said = f"{what} [{place}] {sign} [1] after each stage (95 % over images; effect size d_z)"
        lines.append(f"{said}: {', '.join(cells)}")
    return lines


INSTRUMENT = command.Instrument(
    name=NAME,
    summary="standard deviation of feature maps over dropout masks and positions, block by block",
    description=DESCRIPTION,
    add_arguments=add_arguments,
    measured=measured,
    plan=plan,
    table=lambda arguments, results: table(results) if arguments.image is None else feature_maps.maps.table(results),
    facts=lambda arguments, results: command.one_or_all(
        [to_json(result) if arguments.image is None else feature_maps.maps.to_json(result) for result in results]
    ),
    draw=draw,
)
parser, main = INSTRUMENT.parser, INSTRUMENT.main
