"""Where and how numbers are computed: processes, threads, random streams, dropout masks, progress."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.compute import (
        distributed as distributed,
        masks as masks,
        progress as progress,
        randomness as randomness,
        workers as workers,
    )


lazy.attach(__name__)
