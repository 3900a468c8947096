"""Named arrays out of an ``.npz``, bounded and without pickles."""

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
import torch

from landscape.data.bounds import require_plausible
from landscape.data.images import Images
from landscape.data.reading import Data, as_examples, checked
from landscape.errors import LandscapeError, printable

_HOW = "save it with np.savez(path, images=..., labels=...)"
# A plain array's header is a line of about 80 characters.
_HEADER = 1000
_MAGIC = b"\x93NUMPY"
# No data set has more classes than this; the number sizes arrays.
_CLASSES = 10_000_000
# No network takes more arguments.
_ARRAYS = 1000


def load_npz(path: Path) -> Images:
    """An ``.npz`` with ``labels`` (N,) integer and ``images``; see `load_arrays` for one with other arrays.

    Images are floating point (N, channels, height, width), used as they are, or uint8 (N, height, width, channels),
    scaled to [0, 1] and normalised by mean and std when given. The file has no split. There are as many classes as
    the largest label plus one.

    Raises
    ------
    LandscapeError
        When the file is no such archive, holds pickled objects or non-finite pixels, or claims to unfold to more
        memory than its size makes plausible.
    """
    arrays = read_arrays(path, ("images", "labels"))
    images, labels = arrays["images"], arrays["labels"]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise LandscapeError(f"{path}: labels are {labels.dtype} of shape {labels.shape}: give (N,) integers")
    if images.ndim != 4:
        raise LandscapeError(
            f"{path}: images have shape {images.shape}: give float (N, channels, height, width) "
            "or uint8 (N, height, width, channels)"
        )
    if images.dtype == np.uint8:
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    elif images.dtype == np.float16:
        images = images.astype(np.float32)
    elif images.dtype not in (np.float32, np.float64):
        raise LandscapeError(f"{path}: images are {images.dtype}: give uint8 or floating point")
    return checked(torch.from_numpy(images), torch.from_numpy(_class_numbers(labels, path)), str(path))


def load_arrays(path: Path) -> Data:
    """An ``.npz`` of any named arrays: images with labels as `load_npz` reads them, all others as `as_examples` does.

    Raises
    ------
    LandscapeError
        As `load_npz`.
    """
    names = array_names(path)
    if "images" in names or not names:
        return load_npz(path)
    return as_examples(read_arrays(path, names), name=str(path))


def array_names(path: Path) -> list[str]:
    """Names of the arrays of an ``.npz``; empty for what is no such file, which `read_arrays` then says."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [member.removesuffix(".npy") for member in archive.namelist()][:_ARRAYS]
    except Exception:  # a damaged archive can raise nearly anything
        return []


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays of an ``.npz`` by name, numbers alone, in native byte order; other members are not looked at.

    Raises
    ------
    LandscapeError
        When one is missing, damaged, pickled, or larger than its file makes plausible.
    """
    try:
        with open(path, "rb") as file:
            if file.read(len(_MAGIC)) == _MAGIC:
                raise LandscapeError(f"{path} is a single array (.npy); images need labels: {_HOW}")
            with zipfile.ZipFile(file) as archive:
                return _read(archive, path, names)
    except LandscapeError:
        raise
    except Exception as error:  # a damaged archive can raise nearly anything: zlib.error, RuntimeError, struct.error
        reason = printable(error, 200) or type(error).__name__
        raise LandscapeError(f"{path} is not a readable .npz of plain arrays ({reason}): {_HOW}") from None


def _read(archive: zipfile.ZipFile, path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
    missing = [name for name in names if name not in members]
    if missing:
        there = ", ".join(list(members)[:10])[:200] or "none"
        raise LandscapeError(f"{path} has no array {missing[0]!r} (it has {there}): {_HOW}")
    chosen = {name: members[name] for name in names}
    require_plausible(sum(member.file_size for member in chosen.values()), path.stat().st_size, path)
    arrays = {}
    for name, member in chosen.items():
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
            raise LandscapeError(f"{path}: array {name!r} is encrypted or not compressed as NumPy does it: {_HOW}")
        with archive.open(member) as stream:
            _require_plain(stream, member.file_size)
        with archive.open(member) as stream:
            array = np.lib.format.read_array(stream, allow_pickle=False, max_header_size=_HEADER)
        arrays[name] = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return arrays


def _require_plain(stream: IO[bytes], size: int) -> None:
    """Check that a member of `size` bytes is one array of numbers of exactly that size; raises ValueError."""
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("not an array of numbers")
    start = stream.tell()
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=_HEADER)
    if dtype.kind not in "biufc" or any(length < 0 for length in shape):
        raise ValueError(f"an array of {dtype.name}, not of numbers")
    if stream.tell() + dtype.itemsize * math.prod(shape) != size or start > size:
        raise ValueError(f"an array of shape {shape} does not take {size} bytes")


def _class_numbers(labels: np.ndarray, where: Path | str) -> np.ndarray:
    """Labels as int64, refused where they are beyond any number of classes."""
    if len(labels) and int(labels.max()) >= _CLASSES:
        first = int((labels >= _CLASSES).argmax())
        raise LandscapeError(
            f"{where}: label {int(labels[first])} of image {first} is no number of a class: give 0, 1, ..."
        )
    return labels.astype(np.int64)
