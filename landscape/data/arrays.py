"""Named arrays out of an ``.npz``, bounded and without pickles."""

import math
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from landscape.compute.memory import available_memory
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
_TABLES = (".csv", ".tsv", ".txt")
# Bytes from which on arrays stay in their file.
_MAPPED = 256 * 2**20
# Bytes of a zip member's header before its name.
_LOCAL_HEADER = 30


def load_npz(path: Path) -> Images:
    """An ``.npz`` with ``labels`` (N,) integer and ``images``; see `load_arrays` for one with other arrays.

    Images are floating point (N, channels, height, width), used as they are, or uint8 (N, height, width, channels),
    scaled to [0, 1] and normalised by mean and std when given. The file has no split. There are as many classes as
    the largest label plus one.

    Raises
    ------
    LandscapeError
        When the file is not such an archive, holds pickled objects or non-finite pixels, or claims to unfold to more
        memory than its size makes plausible.
    """
    return _images(read_arrays(path, ("images", "labels")), path)


def _images(arrays: Mapping[str, np.ndarray], path: Path) -> Images:
    images, labels = arrays["images"], arrays["labels"]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise LandscapeError(
            f"{path}: labels are {labels.dtype} of shape {labels.shape}: give (N,) integers, or name targets that are "
            "no classes y, and their inputs x"
        )
    if images.ndim != 4:
        raise LandscapeError(
            f"{path}: images have shape {images.shape}: give float (N, channels, height, width) "
            "or uint8 (N, height, width, channels)"
        )
    if images.dtype == np.uint8:
        if images.shape[1] in (1, 3) and images.shape[3] > 4:
            raise LandscapeError(
                f"{path}: uint8 images of shape {images.shape} have their channels before height and width: "
                "give images.transpose(0, 2, 3, 1)"
            )
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    elif images.dtype == np.float16:
        images = images.astype(np.float32)
    elif images.dtype not in (np.float32, np.float64):
        raise LandscapeError(f"{path}: images are {images.dtype}: give uint8 or floating point")
    return checked(torch.from_numpy(images), torch.from_numpy(_class_numbers(labels, path)), str(path))


def load_arrays(path: Path) -> Data:
    """An ``.npz`` of any named arrays: images with labels as `load_npz` reads them, all others as `as_examples` does.

    Images whose labels are no single number, such as masks (N, height, width), are examples: floating point alone.

    Large files are not read whole: arrays that are not compressed stay on disk, and are read as they are needed.

    Raises
    ------
    LandscapeError
        As `load_npz`.
    """
    names = array_names(path)
    if path.suffix.lower() in _TABLES:
        raise LandscapeError(
            f"{path} is a table in text, which is not read: save its columns with np.savez('data.npz', x=..., y=...), "
            "or write a function that returns them, --data FILE.py:FUNCTION"
        )
    mapped = path.stat().st_size >= _MAPPED
    if "images" not in names and names:
        return as_examples(read_arrays(path, names, mapped=mapped), name=str(path))
    arrays = read_arrays(path, ("images", "labels"))
    if arrays["labels"].shape[1:] in ((), (1,)):
        return _images(arrays, path)
    if not np.issubdtype(arrays["images"].dtype, np.floating):
        raise LandscapeError(
            f"{path}: images with labels of shape {arrays['labels'].shape} are given to the network as they are: make "
            "them floating point (N, channels, height, width), normalised"
        )
    return as_examples(arrays, name=str(path))


def array_names(path: Path) -> list[str]:
    """Names of the arrays of an ``.npz``; empty for any other file, which `read_arrays` then refuses."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [member.removesuffix(".npy") for member in archive.namelist()][:_ARRAYS]
    except Exception:  # a damaged archive can raise nearly anything
        return []


def read_arrays(path: Path, names: Sequence[str], *, mapped: bool = False) -> dict[str, np.ndarray]:
    """Arrays of an ``.npz`` by name, numbers alone, in native byte order; other members are not looked at.

    With `mapped`, those that are not compressed stay in the file, without a check of their content's CRC.

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
                return _read(archive, path, names, mapped)
    except LandscapeError:
        raise
    except Exception as error:  # a damaged archive can raise nearly anything: zlib.error, RuntimeError, struct.error
        reason = printable(error, 200) or type(error).__name__
        raise LandscapeError(f"{path} is not a readable .npz of plain arrays ({reason}): {_HOW}") from None


def _read(archive: zipfile.ZipFile, path: Path, names: Sequence[str], mapped: bool) -> dict[str, np.ndarray]:
    members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
    missing = [name for name in names if name not in members]
    if missing:
        there = ", ".join(list(members)[:10])[:200] or "none"
        raise LandscapeError(f"{path} has no array {missing[0]!r} (it has {there}): {_HOW}")
    chosen = {name: members[name] for name in names}
    require_plausible(sum(member.file_size for member in chosen.values()), path.stat().st_size, path)
    arrays: dict[str, np.ndarray] = {}
    for name, member in chosen.items():
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
            raise LandscapeError(f"{path}: array {name!r} is encrypted or not compressed as NumPy does it: {_HOW}")
        with archive.open(member) as stream:
            shape, fortran, dtype, start = _require_plain(stream, member.file_size)
        as_it_is = member.compress_type == zipfile.ZIP_STORED and dtype.isnative and not fortran
        if mapped and as_it_is and 0 not in shape:
            offset = _content(path, member) + start
            arrays[name] = np.memmap(path, dtype, mode="r", offset=offset, shape=shape)
            continue
        if member.file_size > available_memory(torch.device("cpu")) // 2:
            raise LandscapeError(
                f"{path}: array {name!r} takes {member.file_size / 2**30:.1f} GiB, more than half of the memory, and "
                "can only be read whole as it is saved: save it uncompressed (np.savez), in native byte order"
            )
        with archive.open(member) as stream:
            array = np.lib.format.read_array(stream, allow_pickle=False, max_header_size=_HEADER)
        arrays[name] = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return arrays


def _content(path: Path, member: zipfile.ZipInfo) -> int:
    """Where the content of an uncompressed member begins in the file: behind its local header."""
    with open(path, "rb") as file:
        file.seek(member.header_offset)
        header = file.read(_LOCAL_HEADER)
    if len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
        raise ValueError("a member is not where its archive says")
    offset = member.header_offset + _LOCAL_HEADER + sum(struct.unpack("<HH", header[26:30]))
    if offset + member.file_size > path.stat().st_size:
        raise ValueError("a member is longer than its archive")
    return offset


def _require_plain(stream: IO[bytes], size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether Fortran's order, type, and start of the numbers of a member of `size` bytes.

    Raises ValueError unless it is one array of numbers of exactly that size.
    """
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("not an array of numbers")
    start = stream.tell()
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=_HEADER)
    if dtype.kind not in "biufc" or any(length < 0 for length in shape):
        raise ValueError(f"an array of {dtype.name}, not of numbers")
    if stream.tell() + dtype.itemsize * math.prod(shape) != size or start > size:
        raise ValueError(f"an array of shape {shape} does not take {size} bytes")
    return shape, fortran, dtype, stream.tell()


def _class_numbers(labels: np.ndarray, where: Path | str) -> np.ndarray:
    """Labels as int64, refused where they are beyond any number of classes."""
    if len(labels) and int(labels.max()) >= _CLASSES:
        first = int((labels >= _CLASSES).argmax())
        raise LandscapeError(
            f"{where}: label {int(labels[first])} of image {first} is not the number of a class: give 0, 1, ..."
        )
    return labels.astype(np.int64)
