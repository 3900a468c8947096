"""Command line of the feature-map instrument."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landscape import command, feature_maps, tables

if TYPE_CHECKING:
    import xarray

    from landscape.store.journal import Journal

NAME = "landscape.feature_maps"
DESCRIPTION = """Model and data uncertainty of feature maps by depth, over Monte-Carlo dropout passes.

model_std: standard deviation over dropout masks; data_std: over positions within a pass; relative: divided by the map's
own root mean square. With several networks, the others are compared with the first, image by image. Positions of
sequences are tokens: outputs (N, T, C) of blocks."""


def add_arguments(parser: command.Parser) -> None:
    """Add its flags: which passes and blocks, and the maps of one image."""
    # The paper's figure is on test images, with masks drawn anew.
    parser.set_defaults(split="test", dropout="fresh")
    group = parser.add_argument_group("feature maps")
    group.add_argument("--passes", type=command.positive, default=50, metavar="T", help="masks per image (default: 50)")
    feature_maps.tables.add_blocks(group)
    group.add_argument("--image", type=int, metavar="K", help="show the maps of image K of the split instead")


def draw(arguments: argparse.Namespace, results: list[xarray.Dataset]) -> list[Path]:
    """Curves over depth, or the maps of one image."""
    if arguments.plot is None:
        return []
    (feature_maps.picture.draw if arguments.image is None else feature_maps.picture.draw_maps)(results, arguments.plot)
    return [arguments.plot]


def settings(arguments: argparse.Namespace, subject: command.Subject) -> dict[str, Any]:
    """The settings that decide the result."""
    return {"passes": arguments.passes, "blocks": arguments.blocks, "image": arguments.image}


def measure(arguments: argparse.Namespace, subject: command.Subject, journal: Journal) -> xarray.Dataset:
    """Standard deviations by depth, or the maps of one image."""
    model, how = subject.checkpoint.model, {"passes": arguments.passes, "blocks": arguments.blocks}
    if arguments.image is not None:
        how |= {"protocol": subject.protocol, "device": command.device(arguments)}
        return feature_maps.maps.measure(model, subject.images, arguments.image, **how)
    how |= command.pass_settings(arguments, subject)
    result = feature_maps.measure(model, subject.data, **how, journal=journal, quiet=arguments.quiet)
    return command.with_fit(arguments, subject, result)


def table(results: Sequence[xarray.Dataset]) -> str:
    """One row per point; one group of columns per network; below, paired comparisons block by block."""
    quantities = {"model_std": "model std", "relative_model_std": "relative", "data_std": "data std"}

    def cells(point: xarray.Dataset) -> list[str]:
        masks, images = float(point["variance_between_masks"]), float(point["variance_between_images"])
        return [
            *(tables.with_error(float(point[what]), float(point[f"{what}_stderr"])) for what in quantities),
            f"{masks / (masks + images):.0%}" if masks + images > 0 else "-",
        ]

    by_point = feature_maps.tables.by_point(results, lambda _: [*quantities.values(), "masks' share"], cells)
    over = results[0].attrs.get("examples", "images")
    compared = feature_maps.tables.compared(results, "model_std_of_image", "model std")
    return "\n".join([by_point, f"± standard error over {over}", *compared])


INSTRUMENT = command.Instrument(
    name=NAME,
    summary="standard deviation of feature maps over dropout masks and positions, block by block",
    description=DESCRIPTION,
    add_arguments=add_arguments,
    settings=settings,
    measure=measure,
    plan=lambda arguments, subject: feature_maps.tables.plan(arguments, subject),
    table=lambda arguments, results: table(results) if arguments.image is None else feature_maps.maps.table(results),
    facts=lambda arguments, results: command.one_or_all(
        [command.facts_of(result, without=("image",) if arguments.image is None else ()) for result in results]
    ),
    draw=draw,
)
parser, main = INSTRUMENT.parser, INSTRUMENT.main
