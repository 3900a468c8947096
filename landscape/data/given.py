"""Images that a user brings: an ``.npz`` file, a folder of pictures by class, or a factory in Python."""

import inspect
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from landscape.data.images import Images
from landscape.errors import LandscapeError
from landscape.store.importing import named_object

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp", ".tif", ".tiff")


def load_npz(path: Path) -> Images:
    """An ``.npz`` with ``labels`` (N,) integer and ``images``.

    Images are floating point (N, channels, height, width), used as they are, or uint8 (N, height, width, channels),
    scaled to [0, 1] and normalised by mean and std when given. The file has no split. There are as many classes as
    the largest label plus one.

    Raises
    ------
    LandscapeError
        When the file is no such archive, or holds pickled objects, or non-finite pixels.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = {"images", "labels"} - set(archive.files)
            if missing:
                raise LandscapeError(
                    f"{path} has no array {sorted(missing)[0]!r} (it has {', '.join(archive.files) or 'none'}): "
                    "save it with np.savez(path, images=..., labels=...)"
                )
            images, labels = archive["images"], archive["labels"]
    except LandscapeError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise LandscapeError(
            f"{path} is not a readable .npz of plain arrays ({' '.join(str(error).split())[:200]}): "
            "save it with np.savez(path, images=..., labels=...)"
        ) from None
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
    return _images(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)), str(path))


def load_folder(path: Path, split: str) -> Images:
    """Pictures in one sub-folder a class, classes in alphabetical order; all of one size, read as RGB.

    When the folder has a sub-folder named after the split (``train``, ``test``; ``val`` counts as ``test``), the
    classes are looked for there.

    Raises
    ------
    LandscapeError
        When there are no pictures, one cannot be read, or sizes differ.
    """
    name = str(path)
    splits = {"train": ("train",), "test": ("test", "val")}
    has_splits = any((path / name).is_dir() for names in splits.values() for name in names)
    if has_splits:
        found = [path / name for name in splits[split] if (path / name).is_dir()]
        if not found:
            raise LandscapeError(f"{path} has no folder {split!r}: add it, or choose the other --split")
        path = found[0]
    classes = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    files = [
        (file, label)
        for label, folder in enumerate(classes)
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in PICTURES
    ]
    if not files:
        raise LandscapeError(f"{path} holds no pictures: put them in one sub-folder a class ({', '.join(PICTURES)})")
    pictures: list[np.ndarray] = []
    for file, _ in files:
        try:
            with PIL.Image.open(file) as picture:
                pictures.append(np.asarray(picture.convert("RGB")))
        except (OSError, ValueError, SyntaxError) as error:
            raise LandscapeError(f"{file} is not a readable picture ({error}): replace or remove it") from None
        if pictures[-1].shape != pictures[0].shape:
            raise LandscapeError(
                f"{file} is {pictures[-1].shape[1]}x{pictures[-1].shape[0]} pixels, {files[0][0]} is "
                f"{pictures[0].shape[1]}x{pictures[0].shape[0]}: bring all pictures to one size"
            )
    images = torch.from_numpy(np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2)))
    labels = torch.tensor([label for _, label in files])
    return Images(images=images, labels=labels, classes=len(classes), name=name, split=split if has_splits else "")


def load_factory(specification: str, split: str) -> Images:
    """What ``MODULE:FACTORY`` returns: a Dataset of (image, label), a pair (images, labels), or `Images`.

    The factory is called with ``split=...`` when it has such a parameter, and without arguments otherwise. Tensors are
    (channels, height, width), uint8 or floating point; PIL pictures are read as they are.

    Raises
    ------
    LandscapeError
        When the factory cannot be called, or returns something else.
    """
    factory = named_object(specification)
    if not callable(factory):
        raise LandscapeError(f"{specification} is a {type(factory).__name__}, not a factory: name a function or class")
    try:
        has_split = "split" in _parameters(factory)
        made = factory(split=split) if has_split else factory()
        if isinstance(made, Images):
            return made
        if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], torch.Tensor):
            images, labels = made[0], torch.as_tensor(made[1])
        else:
            pairs = [made[index] for index in range(len(made))] if hasattr(made, "__len__") else list(made)
            if not pairs:
                raise LandscapeError(f"{specification} holds no images: give at least one")
            images = torch.stack([_as_tensor(image) for image, _ in pairs])
            labels = torch.tensor([int(label) for _, label in pairs])
    except LandscapeError:
        raise
    except Exception as error:
        raise LandscapeError(
            f"{specification} gave no Dataset of (image, label) ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}): return a Dataset, or tensors (images, labels)"
        ) from error
    return _images(images, labels.long(), specification, split if has_split else "")


def _parameters(factory: Any) -> set[str]:
    try:
        return set(inspect.signature(factory).parameters)
    except ValueError:  # builtins without a signature
        return set()


def _as_tensor(image: Any) -> torch.Tensor:
    if isinstance(image, torch.Tensor):
        return image
    pixels = np.asarray(image)
    if pixels.dtype == np.uint8:  # a picture: height, width and perhaps channels
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return torch.from_numpy(np.array(pixels))


def _images(images: torch.Tensor, labels: torch.Tensor, name: str, split: str = "") -> Images:
    if images.is_floating_point() and not bool(images.isfinite().all()):
        first = int((~images.isfinite()).flatten(1).any(1).nonzero()[0])
        raise LandscapeError(f"{name}: image {first} has non-finite pixels: repair or remove it")
    classes = int(labels.max()) + 1 if len(labels) else 0
    return Images(images=images, labels=labels, classes=classes, name=name, split=split)
