"""Labelled images, by name or as given, and examples of any other shape; augmentation that can be replayed."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.data.augment import augment, draws
    from landscape.data.examples import Examples
    from landscape.data.images import Images
    from landscape.data.reading import Data, as_examples
    from landscape.data.sources import NAMES, SPLITS, data_root, load, load_any, named

__all__ = [
    "NAMES",
    "SPLITS",
    "Data",
    "Examples",
    "Images",
    "as_examples",
    "augment",
    "data_root",
    "draws",
    "load",
    "load_any",
    "named",
]

lazy.attach(__name__)
