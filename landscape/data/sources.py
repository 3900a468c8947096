"""Images by name, path or factory."""

import difflib
import os
from pathlib import Path
from typing import TypedDict, Unpack

from landscape.data.arrays import load_arrays
from landscape.data.cifar import NAMES as CIFAR_NAMES, load_cifar
from landscape.data.digits import load_digits
from landscape.data.given import load_factory
from landscape.data.images import Images
from landscape.data.pictures import Channels, load_folder
from landscape.data.reading import Data
from landscape.errors import LandscapeError, printable

NAMES = ("digits", *CIFAR_NAMES)
SPLITS = ("train", "test")


def data_root(root: Path | str | None = None) -> Path:
    """Folder of downloaded sets: `root`, else the environment's ``LANDSCAPE_DATA``, else ``data`` here."""
    return Path(root or os.environ.get("LANDSCAPE_DATA") or "data")


class Options(TypedDict, total=False):
    """What `load` and `load_any` take by name."""

    root: Path | str | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    resize: tuple[int, int] | None
    channels: Channels | None


def load(specification: str | Path, split: str = "train", **options: Unpack[Options]) -> Images:
    """Images by name, path or factory, as `load_any`.

    Raises
    ------
    LandscapeError
        As `load_any`, and when what is there is not images with one class each.
    """
    data = load_any(specification, split, **options)
    if not isinstance(data, Images):
        raise LandscapeError(
            f"{data!r} holds no images with one class each: give tensors (N, channels, height, width) and (N,) integers"
        )
    return data


def load_any(
    specification: str | Path,
    split: str = "train",
    *,
    root: Path | str | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    resize: tuple[int, int] | None = None,
    channels: Channels | None = None,
) -> Data:
    """Images, or examples of any other shape that an ``.npz`` or a factory holds (`as_examples`).

    Parameters
    ----------
    specification
        ``digits``, ``cifar10``, ``cifar100``, ``cifar100-10`` (its first ten classes); the path of an ``.npz`` or of
        a folder of pictures by class; or ``MODULE:FACTORY``.
    split
        ``train`` or ``test``.
    root
        Folder of the CIFAR archives, default `data_root`.
    mean, std
        Normalisation of uint8 images, a number per channel on the [0, 1] scale; default: the set's own, if it has one.
    resize
        (height, width) that a folder's pictures are brought to, see `load_folder`; nothing else is resized.
    channels
        Channels that a folder's pictures are read with: 1, 3 (default), or a function of height and width.

    Raises
    ------
    LandscapeError
        When there is no such set, or it is empty, damaged or inconsistent.
    """
    name = str(specification)
    if split not in SPLITS:
        raise LandscapeError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    if name not in NAMES and Path(name).is_dir():
        data: Data = load_folder(Path(name), split, resize=resize, channels=channels)
    elif resize is not None:
        raise LandscapeError(f"--resize is for folders of pictures: bring the images of {name} to their size yourself")
    else:
        data = _load(name, split, data_root(root))
    return data.normalized_by(mean, std)


def named(name: object, split: str = "train", *, root: Path | str | None = None) -> Images:
    """Images of a data set known by name: the only data that a file, such as a checkpoint's header, may name.

    No path is opened and no module is imported, whatever `name` is: what the user types on the command line goes to
    `load`, what a file says goes here.

    Parameters
    ----------
    name
        One of `NAMES`, exactly.
    split
        ``train`` or ``test``.
    root
        Folder of the CIFAR archives, default `data_root`.

    Raises
    ------
    LandscapeError
        When `name` is anything else, or the set is absent or damaged.
    """
    if not isinstance(name, str) or name not in NAMES:
        raise LandscapeError(
            f"a file names {printable(repr(name), 80)} as its data, which is not one of {', '.join(NAMES)}, "
            "the only data that a file may name: give --data yourself"
        )
    return load(name, split, root=root)


def _load(name: str, split: str, root: Path) -> Data:
    if name == "digits":
        return load_digits(split)
    if name in CIFAR_NAMES:
        return load_cifar(name, split, root)
    path = Path(name)
    if path.is_file():
        return load_arrays(path)
    if ":" in name:
        return load_factory(name, split)
    near = difflib.get_close_matches(name, NAMES, n=2)
    hint = (
        f"did you mean {' or '.join(near)}?"
        if near
        else f"give {', '.join(NAMES)}, an .npz, a folder or MODULE:FACTORY"
    )
    raise LandscapeError(f"no data {name!r}, neither a known set nor a file here: {hint}")
