"""Pictures of surfaces: filled contours, 3D, profiles, several networks side by side on one scale, animations."""

import math
import textwrap
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from string import ascii_uppercase

import matplotlib
import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.patheffects import AbstractPathEffect, withStroke
from matplotlib.ticker import MaxNLocator

from landscape import plotting
from landscape.errors import LandscapeError
from landscape.metrics.confidence import Z
from landscape.store.files import write_whole
from landscape.surface.choices import View

_LEVELS = 12
# Ticks that meet the ends of a symmetric range.
_STEPS = [1, 2.5, 5, 10]
# Around letters, so that they show on any colour.
_DARK: list[AbstractPathEffect] = [withStroke(linewidth=1.2, foreground="#333333")]
_LIGHT: list[AbstractPathEffect] = [withStroke(linewidth=2.2, foreground="white")]


def draw(
    surfaces: Sequence[xarray.Dataset],
    path: Path | None = None,
    *,
    view: View = "contour",
    variable: str = "loss",
    level: float | None = None,
) -> Figure:
    """Draw one or several surfaces beside each other on one shared scale.

    Parameters
    ----------
    surfaces
        Planes or lines as `landscape.surface` gives them; lines are drawn as profiles.
    path
        Where to save (.pdf, .png, .svg).
    view
        ``contour``, ``3d`` or ``profile`` (cuts along the axes through the origin, with a band of 95 %).
    variable
        What is drawn, for example ``accuracy``.
    level
        Upper end of the scale; what is above is drawn in the last colour. By default the largest value.
    """
    require_drawable(surfaces, variable)
    lines = any(surface[variable].ndim == 1 for surface in surfaces)
    with plotting.style():
        if view == "profile" or lines:
            figure = _profiles(surfaces, variable)
        else:
            figure = _planes(surfaces, variable, level, three_dimensional=view == "3d")
    return plotting.finished(figure, path, surfaces)


def require_drawable(surfaces: Sequence[xarray.Dataset], variable: str) -> None:
    """Raise LandscapeError unless the variable has a value in every cell of all surfaces, and some are finite."""
    for surface in surfaces:
        names = [str(name) for name in surface.data_vars if surface[name].dims in (("alpha",), ("alpha", "beta"))]
        if variable not in names:
            raise LandscapeError(f"the surface has no {variable!r}: choose one of {', '.join(names)}")
    if not any(np.isfinite(surface[variable].values).any() for surface in surfaces):
        raise LandscapeError(f"no cell has a finite {variable}: there is nothing to draw")


def scale(
    surfaces: Sequence[xarray.Dataset], variable: str, level: float | None = None
) -> tuple[Normalize, np.ndarray]:
    """Shared colour scale and contour levels: logarithmic where positive values span more than a factor of ten."""
    pooled = np.concatenate([surface[variable].values.ravel() for surface in surfaces])
    pooled = pooled[np.isfinite(pooled)]
    low, high = float(pooled.min()), float(pooled.max())
    if level is not None:
        if not level > low:
            raise LandscapeError(f"the scale's upper end {level:g} is below everything ({low:g} and more)")
        high = min(high, level)
    if high <= low:
        high = low + max(abs(low), 1.0) * 1e-6
    # Shares, as accuracy is, are read on a linear scale.
    share = surfaces[0][variable].attrs.get("units") == "1"
    logarithmic = not share and low > 0 and high / low > 10
    # Round heights between the ends.
    if logarithmic:
        inside = np.unique([float(f"{height:.2g}") for height in np.geomspace(low, high, _LEVELS)])
    else:
        inside = np.asarray(MaxNLocator(_LEVELS, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))
    levels = np.array([low, *inside[(inside > low) & (inside < high)], high])
    return (LogNorm if logarithmic else Normalize)(low, high), levels


def _planes(
    surfaces: Sequence[xarray.Dataset], variable: str, level: float | None, *, three_dimensional: bool
) -> Figure:
    columns = min(len(surfaces), 4)
    rows = math.ceil(len(surfaces) / columns)
    width = plotting.ONE_COLUMN if columns == 1 else plotting.TWO_COLUMNS
    side = (width - 0.9) / columns
    figure = plotting.figure(width, 0.55 + (0.95 if three_dimensional else 1.0) * side * rows)
    names = plotting.labels(surfaces)
    norm, levels = scale(surfaces, variable, level)
    mappable = matplotlib.cm.ScalarMappable(norm=norm, cmap=plotting.SEQUENTIAL)
    panels = []
    for number, surface in enumerate(surfaces):
        kind = {"projection": "3d"} if three_dimensional else {}
        axes = figure.add_subplot(rows, columns, number + 1, **kind)
        panels.append(axes)
        if three_dimensional:
            _sheet(axes, surface, variable, norm)
        else:
            _contours(axes, surface, variable, norm, levels)
        if len(surfaces) > 1 or "name" in surface.attrs:
            axes.set_title(_title(names[number].label))
    plotting.letter(panels)
    bar = figure.colorbar(
        mappable,
        ax=panels,
        shrink=0.8,
        pad=0.1 if three_dimensional else 0.02,
        extend=_extend(surfaces, variable, norm),
    )
    if isinstance(norm, LogNorm):
        bar.set_ticks(levels[1:-1:2].tolist(), labels=[f"{height:.3g}" for height in levels[1:-1:2]], minor=False)
        bar.minorticks_off()
    bar.set_label(label(surfaces[0], variable))
    if not three_dimensional:
        notes = ["+ the network itself"] if any(_marked_origin(surface) for surface in surfaces) else []
        notes += ["line: the path of the training"] if any("path" in surface for surface in surfaces) else []
        if notes:
            figure.supxlabel("; ".join(notes), fontsize="small")
    return figure


def _title(name: str) -> str:
    """The name in lines that fit a panel."""
    # Names of files may break behind their underscores.
    name = name.replace("_", "_ ")
    return "\n".join(line.replace("_ ", "_") for line in textwrap.wrap(name, 30))


def _extend(surfaces: Sequence[xarray.Dataset], variable: str, norm: Normalize) -> str:
    top = max(float(np.nanmax(np.where(np.isfinite(s[variable].values), s[variable].values, np.nan))) for s in surfaces)
    return "max" if norm.vmax is not None and top > norm.vmax * (1 + 1e-9) else "neither"


def label(surface: xarray.Dataset, variable: str) -> str:
    """What a variable is, with its unit in brackets."""
    facts = surface[variable].attrs
    unit = facts.get("units", "")
    return facts.get("long_name", variable) + (f" ({unit})" if unit not in ("", "1") else "")


def _contours(axes: Axes, surface: xarray.Dataset, variable: str, norm: Normalize, levels: np.ndarray) -> None:
    alpha, beta = surface["alpha"].values, surface["beta"].values
    values = surface[variable].values
    masked = np.ma.masked_invalid(values).T
    axes.contourf(alpha, beta, masked, levels=levels, norm=norm, cmap=plotting.SEQUENTIAL, extend="max")
    # A flat surface has no lines, and matplotlib warns of it.
    inside = [height for height in levels[1:-1] if masked.min() < height < masked.max()]
    if inside:
        drawn = axes.contour(alpha, beta, masked, levels=inside, colors="white", linewidths=0.6, alpha=0.8)
        # The same heights in every panel.
        _level_labels(axes, drawn, [height for height in levels[1:-1:2] if height in inside])
    if masked.mask.any():
        rows, columns = np.nonzero(~np.isfinite(values))
        axes.plot(alpha[rows], beta[columns], "x", color="#666666", markersize=3, markeredgewidth=0.7, clip_on=False)
    axes.grid(False)
    axes.set_aspect(
        (alpha[-1] - alpha[0]) / (beta[-1] - beta[0]) if surface.attrs.get("direction_kind") != "through" else 1.0
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=_STEPS))
    missing = f"\n× {masked.mask.sum()} cells not finite" if masked.mask.any() else ""
    axes.set_xlabel(r"$\alpha$" + missing)
    axes.set_ylabel(r"$\beta$")
    _marks(axes, surface)


def _level_labels(axes: Axes, drawn: ContourSet, heights: Sequence[float]) -> None:
    """Heights on the lines; none that the frame would cut."""
    texts = axes.clabel(drawn, heights, fmt="{:.3g}".format, fontsize="small", colors="black", inline=False)
    for text in texts:
        position = axes.transAxes.inverted().transform(axes.transData.transform(text.get_position()))
        if np.abs(position - 0.5).max() > 0.43:
            text.remove()
        text.set_path_effects(_LIGHT)


def _marks(axes: Axes, surface: xarray.Dataset) -> None:
    if "path" in surface:
        path = surface["path"].values
        axes.plot(path[:, 0], path[:, 1], "o-", color="#D55E00", markersize=2.5, linewidth=1.0)
    if "mark_place" in surface:
        # Names are too long to stand beside their points.
        for letter, point in zip(ascii_uppercase, surface["mark_place"].values, strict=False):
            axes.plot(*point[:2], "o", color="white", markeredgecolor="black", markersize=4)
            axes.annotate(
                letter, point[:2], xytext=(4, 4), textcoords="offset points", color="white", path_effects=_DARK
            )
        names = [
            f"{letter} {plotting.plain(name)}"
            for letter, name in zip(ascii_uppercase, surface["mark"].values, strict=False)
        ]
        axes.set_xlabel("\n".join([axes.get_xlabel(), *names]))
    elif _marked_origin(surface):
        axes.plot(0, 0, "+", color="white", markersize=6, markeredgewidth=1.0)


def _marked_origin(surface: xarray.Dataset) -> bool:
    """Whether the network stands at the origin of the plane and is marked there."""
    return "mark_place" not in surface and bool(surface["alpha"].values[0] <= 0 <= surface["alpha"].values[-1])


def _sheet(axes: Axes, surface: xarray.Dataset, variable: str, norm: Normalize) -> None:
    alpha, beta = np.meshgrid(surface["alpha"].values, surface["beta"].values, indexing="ij")
    heights = np.where(np.isfinite(surface[variable].values), surface[variable].values, np.nan)
    colors = matplotlib.colormaps[plotting.SEQUENTIAL](norm(np.ma.masked_invalid(heights)).filled(np.nan))
    axes.plot_surface(  # type: ignore[attr-defined]
        alpha,
        beta,
        # Height and colour tell the same number on the same scale, logarithmic or not.
        np.ma.filled(norm(np.minimum(np.ma.masked_invalid(heights), float(norm.vmax or 0.0))), np.nan),
        facecolors=colors,
        rcount=101,
        ccount=101,
        linewidth=0.2,
        shade=False,
        edgecolor=(0, 0, 0, 0.25),
    )
    axes.set_zlim(0, 1)  # type: ignore[attr-defined]
    shares = np.linspace(0, 1, 5)
    axes.set_zticks(shares, [f"{float(norm.inverse(share)):.3g}" for share in shares])  # type: ignore[attr-defined]
    axes.view_init(elev=32, azim=-56)  # type: ignore[attr-defined]
    axes.set_xlabel(r"$\alpha$", labelpad=-4)
    axes.set_ylabel(r"$\beta$", labelpad=-4)
    axes.tick_params(pad=-2, labelsize="small")
    axes.zaxis.set_tick_params(pad=1)  # type: ignore[attr-defined]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=_STEPS))


def _profiles(surfaces: Sequence[xarray.Dataset], variable: str) -> Figure:
    planes = all(surface[variable].ndim == 2 for surface in surfaces)
    names = ("alpha", "beta") if planes else ("alpha",)
    figure = plotting.figure(plotting.TWO_COLUMNS if planes else plotting.ONE_COLUMN, 2.7)
    looks = plotting.labels(surfaces)
    first: Axes | None = None
    for column, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), column + 1, sharey=first)
        first = first or axes
        for number, surface in enumerate(surfaces):
            color = looks[number].color
            cut = surface
            for other in set(surface[variable].dims) - {name}:
                cut = cut.isel({other: int(np.abs(surface[other].values).argmin())})
            coordinates, values = cut[name].values, np.ma.masked_invalid(cut[variable].values)
            axes.plot(coordinates, values, color=color, label=looks[number].label)
            if f"{variable}_stderr" in cut:
                error = Z * cut[f"{variable}_stderr"].values
                axes.fill_between(coordinates, values - error, values + error, color=color, alpha=0.18, linewidth=0)
            if name == "alpha" and "mark_place" in surface and surface[variable].ndim == 1:
                for mark, at in zip(surface["mark"].values, surface["mark_place"].values, strict=True):
                    axes.axvline(float(at[0]), color=plotting.PUBLISHED, linewidth=0.8)
                    axes.annotate(
                        plotting.plain(mark),
                        (float(at[0]), 0.98),
                        xycoords=("data", "axes fraction"),
                        fontsize="small",
                        rotation=90,
                        va="top",
                        ha="right",
                    )
        axes.set_xlabel(rf"$\{name}$")
    assert first is not None
    first.set_ylabel(label(surfaces[0], variable))
    plotting.letter(figure.axes)
    banded = any(f"{variable}_stderr" in surface for surface in surfaces)
    plotting.below(figure, first, columns=2, title="band: 95 % over images" if banded else None)
    return figure


def animate(
    frames: Sequence[xarray.Dataset], path: Path, *, variable: str = "loss", level: float | None = None
) -> Path:
    """A GIF of one surface under redrawn masks, as 3D sheets on one scale."""
    from PIL import Image

    require_drawable(frames, variable)
    norm, _ = scale(frames, variable, level)
    pictures = []
    with plotting.style():
        for frame in frames:
            figure = plotting.figure(4.2, 3.6)
            axes = figure.add_subplot(projection="3d")
            _sheet(axes, frame, variable, norm)
            axes.set_title(_title(plotting.labels([frame])[0].label))
            content = BytesIO()
            figure.savefig(content, format="png", dpi=110)
            pictures.append(Image.open(content).convert("RGB"))
    # One palette for all frames, so that colours do not flicker.
    palette = pictures[0].quantize(128)
    frames_out = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    content = BytesIO()
    frames_out[0].save(content, format="GIF", save_all=True, append_images=frames_out[1:], duration=250, loop=0)
    write_whole(path, content.getvalue())
    return path
