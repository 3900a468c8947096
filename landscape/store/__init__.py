"""What is kept: results, journals of unfinished work, the protocol they were measured under, files of others."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.store import (
        files as files,
        importing as importing,
        journal as journal,
        pieces as pieces,
        protocol as protocol,
        published as published,
        result as result,
    )


lazy.attach(__name__)
