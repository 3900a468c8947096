"""A surface as a VTK polygon file (``.vtp``), for ParaView."""

import base64
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import xarray

from landscape.store.files import write_whole
from landscape.surface.pictures import require_drawable


def write(surface: xarray.Dataset, path: Path | str, *, variable: str = "loss") -> Path:
    """Write the sheet (alpha, beta, height) with every variable over the plane as point data, whole or not at all.

    Heights are scaled to half the width of the plane; the values themselves are in the point data. Quadrilaterals with
    a corner that is not finite are left out, so that the sheet has a hole there.
    """
    require_drawable([surface], variable)
    alpha, beta = surface["alpha"].values, surface["beta"].values
    values = surface[variable].values
    finite = np.isfinite(values)
    low, high = float(values[finite].min()), float(values[finite].max())
    scale = 0.5 * (alpha[-1] - alpha[0]) / (high - low) if high > low else 1.0
    heights = np.where(finite, (values - low) * scale, 0.0)
    points = np.stack([*np.meshgrid(alpha, beta, indexing="ij"), heights], axis=-1).reshape(-1, 3)
    number = np.arange(values.size).reshape(values.shape)
    corners = np.stack([number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:]], axis=-1).reshape(-1, 4)
    corners = corners[finite.ravel()[corners].all(axis=1)]
    names = [name for name in surface.data_vars if surface[name].dims == ("alpha", "beta")]
    lines = [
        '<?xml version="1.0"?>',
        '<VTKFile type="PolyData" version="1.0" byte_order="LittleEndian" header_type="UInt64">',
        "<PolyData>",
        f'<Piece NumberOfPoints="{len(points)}" NumberOfPolys="{len(corners)}">',
        f"<PointData Scalars={quoteattr(variable)}>",
        *[_array(str(name), surface[name].values.ravel()) for name in names],
        "</PointData>",
        "<Points>",
        _array("points", points, components=3),
        "</Points>",
        "<Polys>",
        _array("connectivity", corners.ravel()),
        _array("offsets", 4 * np.arange(1, len(corners) + 1)),
        "</Polys>",
        "</Piece>",
        "</PolyData>",
        "</VTKFile>",
        "",
    ]
    path = Path(path)
    write_whole(path, "\n".join(lines).encode())
    return path


def _array(name: str, values: np.ndarray, *, components: int = 1) -> str:
    kind = "Int64" if np.issubdtype(values.dtype, np.integer) else "Float64"
    content = values.astype(f"<{kind[0].lower()}8").tobytes()
    # Not as text, in which VTK reads no numbers that are not finite, and then nothing of the file.
    text = base64.b64encode(len(content).to_bytes(8, "little") + content).decode()
    return (
        f'<DataArray type="{kind}" Name={quoteattr(name)} NumberOfComponents="{components}" format="binary">'
        f"{text}</DataArray>"
    )
