"""An offline page with surfaces one can turn: one file, no network, no library."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import xarray

from landscape import pages, plotting
from landscape.errors import printable
from landscape.store.files import write_whole
from landscape.surface.pictures import label, require_drawable, scale


def write(
    surfaces: Sequence[xarray.Dataset], path: Path | str, *, variable: str = "loss", level: float | None = None
) -> Path:
    """Write a page that shows planes beside each other on one scale, turned together by dragging.

    Every variable over the plane can be chosen; values appear under the pointer; `provenance` stands below.
    """
    require_drawable(surfaces, variable)
    colors = matplotlib.colormaps[plotting.SEQUENTIAL](np.linspace(0, 1, 64))[:, :3]
    names = [
        str(name)
        for name in surfaces[0].data_vars
        if surfaces[0][name].dims == ("alpha", "beta") and all(name in surface for surface in surfaces)
    ]
    names = [variable, *[name for name in names if name != variable]]
    variables = {}
    for name in names:
        pooled = np.concatenate([surface[name].values.ravel() for surface in surfaces])
        if not np.isfinite(pooled).any():
            continue
        norm, _ = scale(surfaces, name, level if name == variable else None)
        variables[name] = {
            "low": norm.vmin,
            "high": norm.vmax,
            "log": type(norm).__name__ == "LogNorm",
            "label": printable(label(surfaces[0], name)),
        }
    data = {
        "colors": [f"rgb({r},{g},{b})" for r, g, b in (colors * 255).round().astype(int).tolist()],
        "variables": variables,
        "surfaces": [
            {
                "name": look.label.replace("\\$", "$"),
                "alpha": surface["alpha"].values.tolist(),
                "beta": surface["beta"].values.tolist(),
                "values": {name: _rounded(surface[name].values) for name in variables},
            }
            for surface, look in zip(surfaces, plotting.labels(surfaces), strict=True)
        ],
    }
    names = [surface["name"] for surface in data["surfaces"]]  # type: ignore[index]
    path = Path(path)
    content = pages.render(
        Path(__file__).with_name("page.html"),
        title=f"Loss surface: {', '.join(names)}",
        origin=json.dumps(plotting.provenance(surfaces), indent=1),
        data=data,
    )
    write_whole(path, content.encode())
    return path


def _rounded(values: np.ndarray) -> list[list[float | None]]:
    """Seven digits, which is what float32 knows; None where not finite."""
    return [[float(f"{value:.7g}") if math.isfinite(value) else None for value in row] for row in values.tolist()]
