"""How much a file may unfold to: small files that claim to hold gigabytes are refused before memory is taken."""

import io
from pathlib import Path
from typing import Protocol

from landscape.errors import LandscapeError

# Below this nothing is refused. Real images shrink by less than a hundred: photographs as JPEG by 10 to 20, digits in
# a compressed archive by 5 to 30.
_ALWAYS = 2**30
_HIGHEST_RATIO = 100


def require_plausible(unfolded: int, stored: int, what: Path | str) -> None:
    """Refuse what takes over 1 GiB in memory and a hundred times its size on disk.

    Parameters
    ----------
    unfolded, stored
        Bytes in memory and on disk.
    what
        Name for the message.

    Raises
    ------
    LandscapeError
        When that is so.
    """
    if unfolded > max(_ALWAYS, _HIGHEST_RATIO * stored):
        raise LandscapeError(
            f"{what} says that its {stored:,} bytes unfold to {unfolded:,}, more than {_HIGHEST_RATIO} times as many: "
            "it is damaged or built to exhaust memory; if not, save it uncompressed"
        )


class Readable(Protocol):
    """Anything that bytes are read from."""

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes."""
        ...


class BoundedReader(io.RawIOBase):
    """A readable stream of at most `limit` bytes, refused beyond.

    Parameters
    ----------
    stream
        Where to read.
    limit
        Bytes in all.
    what
        Name for the message.
    """

    def __init__(self, stream: Readable, limit: int, what: Path | str) -> None:
        self._stream = stream
        self._left = limit
        self._limit = limit
        self._what = what

    def readable(self) -> bool:
        """True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """As a file's; raises LandscapeError when all reads together exceed the limit."""
        if size < 0 or size > self._left:
            # A caller may ask for more than there is: what counts is what comes.
            content = self._stream.read(self._left + 1)
            if len(content) > self._left:
                raise LandscapeError(f"{self._what} unfolds to more than {self._limit:,} bytes: download it again")
        else:
            content = self._stream.read(size)
        self._left -= len(content)
        return content
