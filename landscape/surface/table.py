"""The numbers of surfaces side by side as text, with what they mean below."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import xarray

from landscape import command, tables
from landscape.metrics import METRICS
from landscape.store.vocabulary import with_unit
from landscape.surface.summary import Summary, spread, summarize

Text = Callable[[xarray.Dataset, Summary], str]


def table(
    results: Sequence[xarray.Dataset],
    planes: Sequence[Sequence[xarray.Dataset]] = (),
) -> str:
    """The numbers side by side, with what they mean below; with several planes of each network, their spread."""
    head = ["", *[str(result.attrs.get("name", "")) for result in results]]
    summaries = [summarize(result) for result in results]
    rows = [
        [label, *[text(result, summary) for result, summary in zip(results, summaries, strict=True)]]
        for label, text in _rows(results, summaries)
    ]
    if planes:
        every = [spread([summarize(one) for one in surfaces]) for surfaces in planes]
        for name in every[0]:
            entries = [
                tables.with_interval(one[name]["mean"], one[name]["low"], one[name]["high"])
                for one in every
                if name in one
            ]
            rows.append([f"{name}, {len(planes[0])} planes", *entries, *[""] * (len(results) - len(entries))])
    heights = ", heights in nats" if with_unit("", results) else ""
    notes = [
        f"Lengths are in units of the directions{heights}; in brackets, the 95 % interval for the choice of "
        "images (± one standard error where there is none that holds)"
    ]
    notes[0] += ", of means over several planes that for the choice of planes." if planes else "."
    for result, summary in zip(results, summaries, strict=True):
        notes += _notes(result, summary)
    return "\n".join([command.columns(head, rows), *notes, *_reading(results, summaries)])


def _reading(results: Sequence[xarray.Dataset], summaries: Sequence[Summary]) -> list[str]:
    """How the surfaces compare, in a sentence each: by the mean rise on the widest circle that all of them have."""
    circles = [{rise.radius for rise in summary.rises} for summary in summaries]
    radii = set.intersection(*circles) if circles else set()
    if not radii:
        return []
    widest = [next(rise for rise in summary.rises if rise.radius == max(radii)) for summary in summaries]
    return tables.compared(
        f"the mean rise at radius {max(radii):g}",
        [str(result.attrs.get("name", "surface")) for result in results],
        [rise.mean for rise in widest],
        [(rise.low, rise.high) for rise in widest],
    )


def _rows(results: Sequence[xarray.Dataset], summaries: Sequence[Summary]) -> list[tuple[str, Text]]:
    def centre(result: xarray.Dataset, summary: Summary) -> str:
        if not math.isfinite(summary.origin):
            return "-"
        if "loss_stderr" not in result:
            return f"{summary.origin:.5g}"
        here = result.sel(dict.fromkeys(result["loss"].dims, 0.0))
        if "loss_low" not in result:
            return tables.with_error(summary.origin, float(here["loss_stderr"]))
        low, high = float(here["loss_low"]), float(here["loss_high"])
        known = math.isfinite(low) and math.isfinite(high)
        return tables.with_interval(summary.origin, low, high) if known else f"{summary.origin:.5g}"

    rows: list[tuple[str, Text]] = [
        ("loss at the origin", centre),
        ("lowest, highest", lambda _, s: f"{s.minimum:.5g}, {s.maximum:.5g}"),
    ]
    for radius in sorted({rise.radius for summary in summaries for rise in summary.rises}):
        rows.append((f"mean rise at radius {radius:g}", partial(_rise, radius)))
    rows.append(("curvature along the axes", lambda _, s: _pair(s.curvature)))
    if any("axis_curvature" in result for result in results):
        rows.append(("the same, Hessian products", _hessian_pair))
        rows.append(("Rayleigh quotients", lambda _, s: _pair(s.rayleigh)))
    rows += [
        ("anisotropy", lambda _, s: _pair([s.anisotropy])),
        (
            "roughness",
            lambda _, s: (
                f"{s.roughness:.2g} ({100 * s.roughness_share:.2g} % of the range)"
                if math.isfinite(s.roughness)
                else "-"
            ),
        ),
    ]
    if any(summary.monte_carlo > 0 for summary in summaries):
        rows.append(("masks' error of a cell, not in it", lambda _, s: f"{s.monte_carlo:.2g}"))
    rows += [
        ("not convex in the plane", lambda _, s: _share(s.nonconvex_in_plane)),
        ("basins, total persistence", lambda _, s: f"{s.basins}, {s.total_persistence:.2g}"),
    ]
    if any("smallest_eigenvalue" in result for result in results):
        rows.append(("not convex (Hessian)", lambda _, s: _share(s.nonconvex_share)))
    if any(math.isfinite(summary.barrier) for summary in summaries):
        rows.append(("barrier", lambda _, s: f"{s.barrier:.4g}"))
    for name in ("accuracy", "ece"):
        if all(name in result for result in results):
            rows.append((f"{METRICS[name].label} at the origin", partial(_at_origin, name)))
    rows += [
        (
            "angle of the directions",
            lambda r, _: (
                f"{r.attrs['angle_degrees']:.2f}°" if math.isfinite(r.attrs.get("angle_degrees", math.nan)) else "-"
            ),
        ),
        ("seconds", lambda r, _: f"{r.attrs['seconds']:.1f}" if "seconds" in r.attrs else "-"),
    ]
    return rows


def _rise(radius: float, result: xarray.Dataset, summary: Summary) -> str:
    for rise in summary.rises:
        if rise.radius == radius and math.isfinite(rise.mean):
            mean = f"{rise.mean:.4g}"
            if math.isfinite(rise.low) and math.isfinite(rise.high):
                mean = tables.with_interval(rise.mean, rise.low, rise.high)
            elif math.isfinite(rise.stderr):
                mean = tables.with_error(rise.mean, rise.stderr)
            return f"{mean}, {rise.lowest:.3g} to {rise.highest:.3g}"
    return "-"


def _share(fraction: float) -> str:
    return f"{100 * fraction:.0f} % of cells" if math.isfinite(fraction) else "-"


def _pair(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values if not math.isnan(value)) or "-"


def _hessian_pair(result: xarray.Dataset, summary: Summary) -> str:
    return _pair(np.diag(result["axis_curvature"].values).tolist()) if "axis_curvature" in result else "-"


def _at_origin(name: str, result: xarray.Dataset, summary: Summary) -> str:
    try:
        return f"{float(result[name].sel(dict.fromkeys(result[name].dims, 0.0))):.4g}"
    except KeyError:
        return "-"


def _notes(result: xarray.Dataset, summary: Summary) -> list[str]:
    attributes, name = result.attrs, str(result.attrs.get("name", "surface"))
    notes = []
    if "protocol_hash" in attributes:
        sample = attributes.get("sample") or f"{attributes['images']} images of {attributes['data']}"
        notes.append(
            f"{name}: {sample}, protocol {attributes['protocol_hash']}, {attributes['direction_kind']} directions."
        )
    fits = command.fit_in_words(attributes)
    if fits and not math.isfinite(summary.origin):
        notes.append(f"{name}: {fits} at the network's own weights, which are not a cell.")
    if summary.nonfinite:
        cells = np.argwhere(~np.isfinite(result["loss"].values))
        first = ", ".join(
            f"{axis} = {float(result[axis][index]):.3g}"
            for axis, index in zip(result["loss"].dims, cells[0], strict=True)
        )
        notes.append(
            f"{name}: {summary.nonfinite} of {result['loss'].size} cells are not finite, the first at {first}; "
            "kept as they are, left out of numbers and pictures."
        )
    if attributes.get("tolerance"):
        notes.append(
            f"{name}: {attributes['cells_evaluated']} of {result['loss'].size} cells measured, the rest interpolated "
            f"to {attributes['tolerance']:g} nats; {attributes['checks']} of them checked, off by at most "
            f"{attributes['worst_check']:.2g}: with 95 % confidence at most {100 * attributes['risk']:.0f} % are "
            "beyond the tolerance."
        )
    if "stderr_wanted" in attributes:
        notes.append(
            f"{name}: {attributes['images_sampled']} of {attributes['images']} images in every cell, standard error "
            f"against all of them at most {attributes['stderr_reached']:.2g} nats ({attributes['stderr_wanted']:.2g} "
            "wanted); 1 cell in 20 is outside its interval, and metrics other than the loss are of the "
            "sample."
        )
    if attributes.get("tolerance") or "stderr_wanted" in attributes:
        notes.append(f"{name}: {attributes['saved_factor']:.3g} times cheaper than all images in all cells.")
    if "precision_error" in attributes:
        notes.append(
            f"{name}: {attributes['precision']} passes, loss off by at most {attributes['precision_error']:.2g} nats "
            "at the origin and the corners."
        )
    if attributes.get("dropout") == "fresh" and attributes.get("passes") == 1:
        notes.append(
            f"{name}: one mask draw per cell, so roughness contains the masks' noise; --passes 2 or more tells them "
            "apart."
        )
    if attributes.get("running_statistics") and attributes.get("direction_kind") in (
        "between",
        "through",
        "trajectory",
    ):
        notes.append(
            f"{name}: batch norm has the first network's running statistics everywhere; --batch-norm recalibrated "
            "measures them anew in every cell."
        )
    return notes
