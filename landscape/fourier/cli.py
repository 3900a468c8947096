"""Command line of the Fourier instrument."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landscape import command, feature_maps, fourier, tables
from landscape.fourier.choices import PATHS

if TYPE_CHECKING:
    import xarray

    from landscape.store.journal import Journal

NAME = "landscape.fourier"
DESCRIPTION = """Amplitude spectra of feature maps by depth.

Delta log A(f): log amplitude at frequency f relative to that at 0, on the half-diagonal of the 2D spectrum (as the
authors) or averaged over rings; with dropout's masks off and on, and of dropout's noise alone. Of sequences, along
their tokens. With --transfer, the gain of each block for sinusoids at the operating point instead."""


def add_arguments(parser: command.Parser) -> None:
    """Add its flags: of spectra, and of ``--transfer``."""
    parser.set_defaults(split="test", dropout="fresh")
    group = parser.add_argument_group("spectra")
    group.add_argument("--passes", type=command.positive, default=10, metavar="T", help="masks per image (default: 10)")
    group.add_argument("--path", choices=PATHS, default=PATHS[0], help="shown in table and picture; both are kept")
    group.add_argument("--window", choices=("hann",), help="taper the maps first (default: not, as the authors)")
    feature_maps.tables.add_blocks(group)
    group.add_argument("--keep-curves", action="store_true", help="save the curve of every image, for resampling")
    group.add_argument("--transfer", action="store_true", help="frequency response of each block instead")
    group.add_argument("--points", type=command.positive, default=16, metavar="N", help="images of --transfer")


def draw(arguments: argparse.Namespace, results: list[xarray.Dataset]) -> list[Path]:
    """Spectra, or gains of blocks."""
    if arguments.plot is None:
        return []
    if arguments.transfer:
        fourier.picture.draw_transfer(results, arguments.plot)
    else:
        fourier.picture.draw(results, arguments.plot, path_in_plane=arguments.path)
    return [arguments.plot]


def settings(arguments: argparse.Namespace, subject: command.Subject) -> dict[str, Any]:
    """What decides the result."""
    if arguments.transfer:
        return {"blocks": arguments.blocks, "transfer": arguments.points}
    chosen = {"blocks": arguments.blocks, "passes": arguments.passes, "window": arguments.window}
    # Only where it is set: results of commands without it keep their address.
    return chosen | ({"of_image": True} if arguments.keep_curves else {})


def measure(arguments: argparse.Namespace, subject: command.Subject, journal: Journal) -> xarray.Dataset:
    """Spectra, or gains of blocks."""
    model = subject.checkpoint.model
    common = {
        "protocol": subject.protocol,
        "blocks": arguments.blocks,
        "device": command.device(arguments),
        "quiet": arguments.quiet,
    }
    if arguments.transfer:
        return fourier.transfer.measure(model, subject.images, images=arguments.points, seed=arguments.seed, **common)
    result = fourier.measure(
        model,
        subject.data,
        passes=arguments.passes,
        window=arguments.window,
        of_image=arguments.keep_curves,
        batch=arguments.batch,
        journal=journal,
        **common,
    )
    return command.with_fit(arguments, subject, result)


def amplitude_table(results: Sequence[xarray.Dataset], path: str) -> str:
    """Delta log A(pi) of every point, masks off and on, and the noise against the signal there."""
    along_path = [result.sel(path=path) for result in results]

    def head(result: xarray.Dataset) -> list[str]:
        modes = [f"masks {mode}" for mode in result["dropout"].values]
        return [*modes, "noise/signal at pi"] if "noise_to_signal" in result else modes

    def cells(point: xarray.Dataset) -> list[str]:
        pairs = zip(point["delta_at_pi"].values, point["delta_at_pi_stderr"].values, strict=True)
        deltas = [tables.with_error(float(value), float(stderr)) for value, stderr in pairs]
        if "noise_to_signal" not in point:
            return deltas
        noise = float(point["noise_to_signal"][int(point["end"])])
        return [*deltas, "-" if math.isnan(noise) else f"{noise:+.2f}"]

    over = results[0].attrs.get("examples", "images")
    sequences = all(bool((result["height"] == 1).all()) for result in results)
    along = "along the tokens" if sequences else f"on the {path.replace('_', ' ')}"
    ends = [result.isel(dropout=-1) for result in along_path]
    lines = [
        feature_maps.tables.by_point(along_path, head, cells),
        f"Delta log A(pi) {along}, natural logarithm, ± standard error over {over}",
        *feature_maps.tables.compared(ends, "delta_at_pi_of_image", "Delta log A(pi)", ratio=False),
    ]
    return "\n".join(lines)


def transfer_table(results: Sequence[xarray.Dataset]) -> str:
    """Gain at a few frequencies, relative to the lowest, along the diagonal."""
    shown = [0, 2, 4, 6, 8]
    head = ["network", "up to", "gain at 0"]
    head += [f"{float(results[0]['frequency'][index]):.2g} pi" for index in shown[1:]]
    rows = []
    for result in results:
        along = result.sel(direction="diagonal")
        for index, name in enumerate(result["point"].values):
            relative = along["relative_gain"].values[index]
            first = f"{float(along['gain'][index, 0]):.3g}"
            rows.append([str(result.attrs["name"]), name, first, *(f"{relative[step]:.3f}" for step in shown[1:])])
    note = "gain of the stretch from the point before, both axes at that frequency, relative to the gain at 0"
    return "\n".join([command.columns(head, rows), note])


INSTRUMENT = command.Instrument(
    name=NAME,
    summary="amplitude of high frequencies block by block; each layer's frequency response",
    description=DESCRIPTION,
    add_arguments=add_arguments,
    settings=settings,
    measure=measure,
    plan=lambda arguments, subject: feature_maps.tables.plan(arguments, subject),
    table=lambda arguments, results: (
        transfer_table(results) if arguments.transfer else amplitude_table(results, arguments.path)
    ),
    draw=draw,
)
parser, main = INSTRUMENT.parser, INSTRUMENT.main
