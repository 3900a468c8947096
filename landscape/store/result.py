"""Labelled results with provenance: one NetCDF file a result, found again by what made it."""

import glob
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import xarray

from landscape import __version__
from landscape.errors import LandscapeError
from landscape.store.protocol import Protocol

# What an instrument's results and the pieces of its journal consist of, and how they are computed: raise the number
# when that changes, so that nothing older code has kept is taken for an answer. Instruments not listed stand at 1.
SCHEMAS: dict[str, int] = {
    "landscape.predictions": 2,  # intervals that take off the bias of few images
    "landscape.surface": 2,  # cells keep the paired square, for the error of the rise
    "landscape.hessian": 3,  # one search space for top, smallest and trace; kept products tell their seconds
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
        "command": _command(),
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
    return " ".join(["python", *program, *sys.argv[1:]])


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
    """Write `dataset` as NetCDF, whole or not at all: to a temporary name beside `path`, then renamed.

    Raises
    ------
    LandscapeError
        When the folder cannot be written or the disk is full; nothing is left behind.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        os.close(handle)
        dataset.to_netcdf(temporary, engine="h5netcdf")
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise LandscapeError(f"cannot write {path}: {error.strerror or error}; choose another --out") from None
    finally:
        if temporary is not None:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
    return path


def _sweep(path: Path) -> None:
    """Delete what a process killed while it wrote `path` has left; a minute old, so that no living one loses its."""
    for stale in path.parent.glob(f".{glob.escape(path.name)}-*"):
        with suppress(FileNotFoundError):
            if time.time() - stale.stat().st_mtime > 60:
                stale.unlink()


def load(path: Path | str) -> xarray.Dataset:
    """Read a result into memory.

    Raises
    ------
    LandscapeError
        When the file is missing or is not a result.
    """
    path = Path(path)
    if not path.is_file():
        raise LandscapeError(f"no result at {path}: give the .nc file that an instrument wrote")
    try:
        return xarray.load_dataset(path, engine="h5netcdf")
    except (OSError, ValueError, KeyError) as error:
        raise LandscapeError(f"{path} is not a readable result ({type(error).__name__}): measure again") from None


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
