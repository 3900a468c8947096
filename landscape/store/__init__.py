"""What is kept: results, journals of unfinished work, the protocol they were measured under, files of others."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.store import files, importing, journal, pieces, protocol, published, result

__all__ = ["files", "importing", "journal", "pieces", "protocol", "published", "result"]

lazy.attach(__name__)
