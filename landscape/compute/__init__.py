"""Where and how numbers are computed: processes, threads, random streams, dropout masks, progress."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.compute import distributed, masks, progress, randomness, workers

__all__ = ["distributed", "masks", "progress", "randomness", "workers"]

lazy.attach(__name__)
