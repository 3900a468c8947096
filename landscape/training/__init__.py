"""Training: a recipe in, a checkpoint out, trained once and then taken from the cache."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.training.cache import CACHE, REFERENCE, ensure, file_of, find, find_series, parse
    from landscape.training.recipes import RECIPES, Recipe, recipe
    from landscape.training.schedule import OneCycle, Steps
    from landscape.training.trainer import PRECISIONS, precision, train

__all__ = [
    "CACHE",
    "PRECISIONS",
    "RECIPES",
    "REFERENCE",
    "OneCycle",
    "Recipe",
    "Steps",
    "ensure",
    "file_of",
    "find",
    "find_series",
    "parse",
    "precision",
    "recipe",
    "train",
]

lazy.attach(__name__)
