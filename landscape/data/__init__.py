"""Labelled images, by name or as given, in memory as tensors; augmentation that is seeded and replayable."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.data.augment import augment, draws
    from landscape.data.images import Images
    from landscape.data.sources import NAMES, SPLITS, data_root, load, named

__all__ = ["NAMES", "SPLITS", "Images", "augment", "data_root", "draws", "load", "named"]

lazy.attach(__name__)
