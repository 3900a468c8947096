"""A folder of pictures, one sub-folder per class."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch

from landscape.data.bounds import require_plausible
from landscape.data.images import Images
from landscape.errors import LandscapeError, printable
from landscape.store.files import require_regular

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp", ".tif", ".tiff")
# Decoders are chosen by content, not by name: without this list a PostScript file called x.png would start Ghostscript.
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "PPM", "WEBP", "TIFF")
# 8000 x 6000; a decoded picture takes four bytes per pixel, some formats twice.
_PIXELS = 48_000_000
_SPLITS = {"train": ("train",), "test": ("test", "val")}

Channels = int | Callable[[int, int], int]


def load_folder(
    path: Path, split: str, *, resize: tuple[int, int] | None = None, channels: Channels | None = None
) -> Images:
    """Pictures in one sub-folder per class, classes in alphabetical order.

    When the folder has a sub-folder named after a split (``train``, ``test``; ``val`` counts as ``test``), the classes
    are looked for there, and are those of ``train`` by name: a class that has no pictures in ``test`` leaves the labels
    of the others as they are.

    Parameters
    ----------
    path
        The folder.
    split
        ``train`` or ``test``; without such sub-folders it is the whole folder, for either.
    resize
        (height, width) to bring pictures to: scaled bilinearly until they cover it, then cut to its centre. None: all
        pictures must have one size.
    channels
        1 for grey, 3 for colour, or a function of height and width that says which; None: 3. Grey pictures are read as
        either, colour ones as 3 alone.

    Raises
    ------
    LandscapeError
        When there are no pictures, one cannot be read or is in colour where 1 channel is wanted, or sizes differ.
    """
    try:
        folder, classes, has_split = _classes(path, split)
        files = [
            (file, label)
            for label, name in enumerate(classes)
            if (folder / name).is_dir()
            for file in sorted((folder / name).iterdir())
            if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
        ]
        stored = sum(file.stat().st_size for file, _ in files)
    except OSError as error:
        raise LandscapeError(f"{path} cannot be read ({error.strerror or error}): mend it or give another") from None
    if not files:
        raise LandscapeError(
            f"{folder} holds no pictures: put them in one sub-folder per class ({', '.join(SUFFIXES)})"
        )
    pixels: np.ndarray | None = None
    size = first_size = (0, 0)
    wanted = 3
    for number, (file, _) in enumerate(files):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of oddities in a picture's metadata
            picture = _opened(file)
            with picture:
                if pixels is None:
                    first_size = picture.size
                    size = picture.size if resize is None else (resize[1], resize[0])
                    wanted = channels(size[1], size[0]) if callable(channels) else channels or 3
                    shape = (len(files), 1 if wanted == 1 else 3, size[1], size[0])
                    require_plausible(int(np.prod(shape, dtype=object)), stored, folder)
                    pixels = _empty(shape, folder)
                if resize is None and picture.size != size:
                    raise LandscapeError(
                        f"{file} is {picture.size[0]}x{picture.size[1]} pixels, {files[0][0]} is "
                        f"{first_size[0]}x{first_size[1]}: bring all pictures to one size, e.g. with --resize "
                        f"{min(first_size)}"
                    )
                pixels[number] = _decoded(picture, file, size, grey=wanted == 1)
    assert pixels is not None
    return Images(
        images=torch.from_numpy(pixels),
        labels=torch.tensor([label for _, label in files]),
        classes=len(classes),
        name=printable(path),
        split=split if has_split else "",
    )


def _classes(path: Path, split: str) -> tuple[Path, list[str], bool]:
    """Folder of the split, names of the classes, and whether there are splits."""
    folders = {key: [path / name for name in names if (path / name).is_dir()] for key, names in _SPLITS.items()}
    if not any(folders.values()):
        return path, _subfolders(path), False
    if not folders[split]:
        raise LandscapeError(f"{path} has no folder {split!r}: add it, or choose the other --split")
    folder = folders[split][0]
    classes = _subfolders((folders["train"] or [folder])[0])
    strange = sorted(set(_subfolders(folder)) - set(classes))
    if strange:
        raise LandscapeError(
            f"{folder / strange[0]}: there is no class of that name in {folders['train'][0]}, whose classes count: "
            "rename the folder or remove it"
        )
    return folder, classes, True


def _subfolders(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _empty(shape: tuple[int, ...], folder: Path) -> np.ndarray:
    try:
        return np.empty(shape, dtype=np.uint8)
    except (MemoryError, ValueError):
        raise LandscapeError(
            f"{folder}: {shape[0]} pictures of {shape[2]}x{shape[3]} pixels do not fit the memory: give a smaller "
            "--resize"
        ) from None


def _opened(file: Path) -> PIL.Image.Image:
    """The picture, its pixels not yet decoded."""
    require_regular(file)
    try:
        PIL.Image.init()
        picture = PIL.Image.open(file, formats=[name for name in _FORMATS if name in PIL.Image.OPEN])
    except Exception as error:  # a damaged picture can raise nearly anything, and PIL a bomb error of its own
        raise LandscapeError(f"{file} is not a readable picture ({_reason(error)}): replace or remove it") from None
    if picture.width * picture.height > _PIXELS:
        picture.close()
        raise LandscapeError(
            f"{file} has {picture.width}x{picture.height} pixels, more than {_PIXELS:,}: make it smaller"
        )
    return picture


def _decoded(picture: PIL.Image.Image, file: Path, size: tuple[int, int], *, grey: bool) -> np.ndarray:
    """Pixels (channels, height, width), uint8."""
    try:
        if picture.mode.startswith("I;16"):
            picture = PIL.Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
        if picture.mode in ("I", "F"):
            raise LandscapeError(f"{file} has 32 bits per pixel: save it with 8 per channel")
        is_grey = picture.mode in ("1", "L", "LA", "La")
        converted = picture.convert("L" if grey and is_grey else "RGB")
        if converted.size != size:
            converted = PIL.ImageOps.fit(converted, size, method=PIL.Image.Resampling.BILINEAR)
        pixels = np.asarray(converted)
    except LandscapeError:
        raise
    except Exception as error:  # as above
        raise LandscapeError(f"{file} is not a readable picture ({_reason(error)}): replace or remove it") from None
    if pixels.ndim == 2:
        return pixels[None]
    pixels = pixels.transpose(2, 0, 1)
    if not grey:
        return pixels
    if (pixels != pixels[:1]).any():
        raise LandscapeError(f"{file} is in colour, but the network takes one channel: make the pictures grey")
    return pixels[:1]


def _reason(error: Exception) -> str:
    return printable(error, 200) or type(error).__name__
