"""Labelled images, by name or as given, and examples of any other shape; seeded augmentation."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.data.augment import augment as augment, draws as draws
    from landscape.data.examples import Examples as Examples
    from landscape.data.images import Images as Images
    from landscape.data.reading import Data as Data, as_examples as as_examples
    from landscape.data.sources import (
        NAMES as NAMES,
        SPLITS as SPLITS,
        data_root as data_root,
        load as load,
        load_any as load_any,
        named as named,
    )


lazy.attach(__name__)
