"""Labelled results with provenance: one NetCDF file per result, addressed by its content."""

import hashlib
import io
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray

from landscape import __version__
from landscape.errors import LandscapeError, printable
from landscape.store.files import DamagedFile, read_sealed, write_sealed
from landscape.store.protocol import Protocol

_log = logging.getLogger(__name__)

# What an instrument's results and the pieces of its journal consist of, and how they are computed: raise the number
# when that changes, so that results of older code are not used. Instruments not listed are at 1.
SCHEMAS: dict[str, int] = {
    "landscape.predictions": 2,  # intervals that take off the bias of few images
    "landscape.surface": 4,  # errors of means over tokens, and between the cells that --tolerance measures
    "landscape.feature_maps": 2,  # jackknife errors widened for their few groups
    "landscape.hessian": 5,  # densities of narrow bulks, recalibrated batch norm, --at behind a folded batch norm
    "landscape.connectivity": 2,  # recalibrated batch norm, intervals of low barriers
    "landscape.series": 2,  # the same, and earlier checkpoints with their --smoothing
    "landscape.robustness": 2,  # attacks along the label's log-odds
}


def provenance(
    *,
    instrument: str,
    protocol: Protocol | None = None,
    settings: Mapping[str, Any] | None = None,
    checkpoint_sha256: str = "",
    data_sha256: str = "",
    seed: int = 0,
    seconds: float | None = None,
) -> dict[str, Any]:
    """Attributes that every result carries: what was measured, on what, with which versions, by which command.

    Returns
    -------
    dict
        NetCDF-ready attributes (strings and numbers; mappings as JSON).
    """
    import torch

    attributes: dict[str, Any] = {
        "instrument": instrument,
        "settings": json.dumps(dict(settings or {}), sort_keys=True),
        "checkpoint_sha256": checkpoint_sha256,
        "data_sha256": data_sha256,
        "seed": seed,
        "landscape_version": __version__,
        "torch_version": str(torch.__version__),
        "float32_products": "ieee",  # TF32 off, see landscape.compute.settings
        "command": printable(_command()),
    }
    if protocol is not None:
        attributes |= {"protocol": json.dumps(protocol.to_dict(), sort_keys=True), "protocol_hash": protocol.hash}
    if seconds is not None:
        attributes["seconds"] = seconds
    return attributes


def _command() -> str:
    """What was typed; that was a study or an audit as often as the instrument itself."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    program = [Path(sys.argv[0]).name] if spec is None else ["-m", spec.name.removesuffix(".__main__")]
    return printable(" ".join(["python", *program, *sys.argv[1:]]))


def protocol_of(dataset: xarray.Dataset) -> Protocol:
    """The protocol under which `dataset` was measured."""
    return Protocol.from_dict(json.loads(dataset.attrs["protocol"]))


def key(
    instrument: str,
    *,
    protocol: Protocol | None,
    settings: Mapping[str, Any],
    checkpoint_sha256: str,
    data_sha256: str,
    seed: int,
) -> str:
    """Content address of a result, 12 hexadecimal digits: the same question has the same key."""
    question = {
        "instrument": instrument,
        "version": __version__,
        "schema": SCHEMAS.get(instrument, 1),
        "protocol": protocol.identity() if protocol else None,
        "settings": dict(settings),
        "checkpoint": checkpoint_sha256,
        "data": data_sha256,
        "seed": seed,
    }
    return hashlib.sha256(json.dumps(question, sort_keys=True, default=str).encode()).hexdigest()[:12]


def save(dataset: xarray.Dataset, path: Path | str) -> Path:
    """Write `dataset` as NetCDF with a checksum, whole or not at all.

    The file is made in memory, since HDF5 ends the process where the disk is full. Its checksum stands behind the end
    of the NetCDF content, where ``xarray.open_dataset`` and other readers ignore it. Under a name that ends in ``.gz``
    it is compressed, those of the repository to two fifths: a small NetCDF file is mostly tables, nearly empty.

    Raises
    ------
    LandscapeError
        When the file cannot be written or the disk is full; nothing is left behind.
    """
    content = io.BytesIO()
    dataset.to_netcdf(content, engine="h5netcdf")
    write_sealed(Path(path), content.getbuffer())
    return Path(path)


def load(path: Path | str) -> xarray.Dataset:
    """Read a result into memory, after its checksum was checked.

    Raises
    ------
    DamagedFile
        When the content does not match its checksum, has none, or is not a result.
    LandscapeError
        When the file is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise LandscapeError(f"no result at {path}: give the .nc file that an instrument wrote")
    content = read_sealed(path)
    try:
        return xarray.load_dataset(io.BytesIO(content), engine="h5netcdf")
    # Anything at all: HDF5 and its readers raise by what they stumble over.
    except Exception as error:
        raise DamagedFile(path, f"is not a readable result ({type(error).__name__})", "measure again") from None


def cached(path: Path, key: str) -> xarray.Dataset | None:
    """The result of the question `key` at `path`, or None where it must be measured; damage is logged as a warning."""
    if not path.is_file():
        return None
    try:
        known = load(path)
    except DamagedFile as error:
        _log.warning("%s: it is measured again", error.finding)
        return None
    return known if known.attrs.get("key") == key else None


def require_same_protocol(datasets: Sequence[xarray.Dataset], *, allow_mismatch: bool = False) -> list[str]:
    """Check that results may be laid over each other.

    Returns
    -------
    list of str
        One line for each field in which a protocol differs from the first one's.

    Raises
    ------
    LandscapeError
        When protocols differ and `allow_mismatch` is not set.
    """
    first, *rest = (protocol_of(dataset) for dataset in datasets)
    lines = [
        f"{name}: {mine} against {theirs}" for other in rest for name, (mine, theirs) in first.difference(other).items()
    ]
    if lines and not allow_mismatch:
        raise LandscapeError(
            f"the results were measured under different protocols ({'; '.join(lines)}): measure them alike, "
            "or give --allow-protocol-mismatch"
        )
    return lines
