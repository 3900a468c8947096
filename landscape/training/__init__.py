"""Training: a recipe in, a checkpoint out, trained once and then taken from the cache."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.training.cache import (
        CACHE as CACHE,
        REFERENCE as REFERENCE,
        ensure as ensure,
        file_of as file_of,
        find as find,
        find_series as find_series,
        parse as parse,
    )
    from landscape.training.recipes import (
        BY_ADAM as BY_ADAM,
        RECIPES as RECIPES,
        Recipe as Recipe,
        recipe as recipe,
    )
    from landscape.training.schedule import OneCycle as OneCycle, Steps as Steps
    from landscape.training.trainer import PRECISIONS as PRECISIONS, precision as precision, train as train


lazy.attach(__name__)
