"""Forward passes whose feature maps are looked at: which points, and what repeated passes share."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.look import comparison, depths, forward, prefix

__all__ = ["comparison", "depths", "forward", "prefix"]

lazy.attach(__name__)
