"""Forward passes whose feature maps are looked at: which points, and what repeated passes share."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.look import comparison as comparison, depths as depths, forward as forward, reuse as reuse


lazy.attach(__name__)
