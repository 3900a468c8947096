"""Images from a user's own code: a factory that is named on the command line."""

import inspect
from typing import Any

import numpy as np
import torch

from landscape.data.arrays import checked
from landscape.data.images import Images
from landscape.errors import LandscapeError
from landscape.store.importing import named_object


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
    return checked(images, labels.long(), specification, split if has_split else "")


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
