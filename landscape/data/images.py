"""A set of labelled images in memory."""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from landscape.compute.randomness import generator
from landscape.data.augment import augment, draws
from landscape.data.examples import content
from landscape.errors import LandscapeError


@dataclass(frozen=True)
class Images:
    """Labelled images, whole in memory, normalised when a batch is taken.

    Parameters
    ----------
    images
        (N, channels, height, width): uint8 in 0..255, scaled to [0, 1] and normalised by `mean` and `std` where given;
        or floating point, used as they are.
    labels
        (N,) int64 in 0..classes - 1.
    classes
        Number of classes.
    name, split
        What it is, for results and messages; an empty `split` when it has none, as a file.
    mean, std
        One number a channel on the [0, 1] scale, or None; uint8 images only.
    crop_padding, flip
        The augmentation that suits these images: pixels of zero padding around before a random crop of the old size,
        and whether a mirror image is still of its class.
    population
        Number of images that these are a random sample of: of a standard set, its size, which a subset keeps. None
        when unknown, as for images of a user's own: sampling errors then have no finite-population correction.

    Raises
    ------
    LandscapeError
        When the set is empty, shapes do not fit each other, or a label is out of range.
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: int
    name: str
    split: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop_padding: int = 0
    flip: bool = False
    population: int | None = None

    def __post_init__(self) -> None:
        where = self.title
        if self.images.ndim != 4 or 0 in self.images.shape[1:]:
            raise LandscapeError(
                f"{where}: images have shape {tuple(self.images.shape)}: give (N, channels, height, width)"
            )
        if len(self.images) == 0:
            raise LandscapeError(f"{where} holds no images: give at least one")
        if self.images.dtype != torch.uint8 and not self.images.is_floating_point():
            raise LandscapeError(f"{where}: images are {self.images.dtype}: give uint8 or floating point")
        if self.labels.dtype != torch.int64 or self.labels.shape != (len(self.images),):
            raise LandscapeError(
                f"{where}: {len(self.images)} images need as many int64 labels, "
                f"but labels are {self.labels.dtype} of shape {tuple(self.labels.shape)}"
            )
        self.require_labels_below(self.classes)
        for what, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and self.images.dtype != torch.uint8:
                raise LandscapeError(f"{where}: floating-point images are used as they are: leave out the {what}")
            if values is not None and len(values) != self.images.shape[1]:
                raise LandscapeError(
                    f"{where}: {what} has {len(values)} numbers for {self.images.shape[1]} channels: give one a channel"
                )
        if not all(math.isfinite(number) for number in (*(self.mean or ()), *(self.std or ()))):
            raise LandscapeError(f"{where}: mean {self.mean} and std {self.std} must be finite")
        if self.std is not None and min(self.std) <= 0:
            raise LandscapeError(f"{where}: std is {self.std}: give positive numbers")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        channels, height, width = self.shape
        return f"Images({self.title}: {len(self)} of {channels} x {height} x {width}, {self.classes} classes)"

    @property
    def title(self) -> str:
        """Name, with the split in brackets where there is one."""
        return f"{self.name} ({self.split})" if self.split else self.name

    def described(self, count: int | None = None) -> str:
        """Of what population these images, or `count` of them, are a sample, in words."""
        count = len(self) if count is None else count
        if self.population is None:
            part = "all" if count == len(self) else f"{count:,} of the"
            return f"{part} {len(self):,} images of {self.title}, a sample of an unknown population"
        if count > self.population:  # several epochs
            return f"{count:,} images drawn from the {self.population:,} of {self.title}"
        return (
            f"{'all' if count == self.population else f'{count:,} of the'} {self.population:,} images of {self.title}"
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def device(self) -> torch.device:
        """Where images and labels lie."""
        return self.images.device

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of what a network is shown: pixels, labels and normalisation, in this order of examples."""
        digest = hashlib.sha256()
        facts = [list(self.images.shape), str(self.images.dtype), self.mean, self.std]
        digest.update(json.dumps(facts).encode())
        digest.update(content(self.images))
        digest.update(content(self.labels))
        return digest.hexdigest()

    def require_labels_below(self, classes: int) -> None:
        """Check that a network of so many classes can be shown these labels; raises LandscapeError."""
        wrong = (self.labels < 0) | (self.labels >= classes)
        if wrong.any():
            first = int(wrong.nonzero()[0])
            raise LandscapeError(
                f"{self.title}: label {int(self.labels[first])} of image {first} is out of range: "
                f"labels must lie in 0..{classes - 1}"
            )

    def with_each(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "Images":
        """The same set with `function` of images and labels."""
        return dataclasses.replace(self, images=function(self.images), labels=function(self.labels))

    def to(self, device: torch.device | str) -> "Images":
        """The same set with images and labels on `device`."""
        return self.with_each(lambda tensor: tensor.to(device))

    def select(self, indices: torch.Tensor) -> "Images":
        """The examples at `indices` ((n,) int64), in that order."""
        indices = indices.to(self.device)
        return self.with_each(lambda tensor: tensor[indices])

    def subset(self, count: int, seed: int) -> "Images":
        """A random sample without replacement: the first `count` of the permutation that `seed` names.

        Samples of one seed are nested, and the whole set keeps its order.

        Raises
        ------
        LandscapeError
            When `count` is not in 1..N.
        """
        if not 1 <= count <= len(self):
            raise LandscapeError(f"{self.title} has {len(self)} images, not {count}: give 1 to {len(self)}")
        if count == len(self):
            return self
        return self.select(torch.randperm(len(self), generator=generator(seed, "subset"))[:count])

    def normalized_by(self, mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> "Images":
        """The same images with another mean or standard deviation; None leaves what there is."""
        changes = {name: tuple(value) for name, value in (("mean", mean), ("std", std)) if value is not None}
        return dataclasses.replace(self, **changes) if changes else self  # type: ignore[arg-type]

    def normalized(self, raw: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Raw images (n, channels, height, width) of this set as a network takes them, in `dtype`."""
        if raw.dtype != torch.uint8:
            return raw.to(dtype)
        scaled = raw.to(dtype) / 255
        if self.mean is not None:
            scaled = scaled - _of_channels(self.mean, dtype, raw.device)
        if self.std is not None:
            scaled = scaled / _of_channels(self.std, dtype, raw.device)
        return scaled

    def batch(
        self, start: int, stop: int, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
    ) -> torch.Tensor:
        """Examples start..stop-1 as a network takes them: (n, channels, height, width) of `dtype` on `device`."""
        return self.normalized(self.images[start:stop].to(device or self.device), dtype)

    def target(self, start: int, stop: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Labels of examples start..stop-1; `dtype` is for targets that are not whole numbers."""
        return self.labels[start:stop]

    @property
    def nbytes(self) -> int:
        """Bytes of the images once they are floating point (float32)."""
        return self.images.numel() * 4

    def augmented(self, seed: int) -> "Images":
        """The frozen augmented set: one draw an example, the same for the same seed, not to be augmented again."""
        drawn = draws(len(self), seed=seed, padding=self.crop_padding, flip=self.flip)
        images = augment(self.images, drawn, padding=self.crop_padding)
        return dataclasses.replace(self, images=images, crop_padding=0, flip=False)


@functools.lru_cache(maxsize=64)
def _of_channels(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """(channels, 1, 1), cached: a copy to a GPU makes the host wait, and each batch needs it."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)[:, None, None]
