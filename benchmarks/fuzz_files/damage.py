"""Ways to damage any file, things that are no file, and an object that runs when a reader lets it."""

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

CANARY = "canary"
Mutation = Callable[[Path, random.Random], object]


class Kind(Protocol):
    """One kind of file."""

    @property
    def mutations(self) -> Sequence[tuple[str, Mutation]]:
        """Ways to change a valid file, each with its name."""

    def use(self, folder: Path, stream: random.Random) -> None:
        """Read what a mutation has left in `folder`."""


def bits(content: bytes, stream: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(stream.choice((1, 1, 2, 8, 32))):
        changed[stream.randrange(len(changed))] ^= 1 << stream.randrange(8)
    return bytes(changed)


def cut(content: bytes, stream: random.Random) -> bytes:
    return content[: stream.randrange(len(content))]


def spliced(content: bytes, stream: random.Random) -> bytes:
    start, stop, place = (stream.randrange(len(content)) for _ in range(3))
    return content[:place] + content[min(start, stop) : max(start, stop)] + content[place:]


def noise(content: bytes, stream: random.Random) -> bytes:
    return stream.randbytes(stream.choice((0, 1, 7, 200, 5000)))


def zeroed(content: bytes, stream: random.Random) -> bytes:
    start = stream.randrange(len(content))
    length = stream.randrange(1, 400)
    return content[:start] + bytes(len(content[start : start + length])) + content[start + length :]


DAMAGES = (("bits flipped", bits), ("cut off", cut), ("spliced", spliced), ("noise", noise), ("zeroed", zeroed))


def strange(path: Path, stream: random.Random) -> None:
    """Something at `path` that is no regular file, or no file with content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        path.unlink()
    what = stream.choice(("pipe", "folder", "link to itself", "broken link", "empty", "device"))
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "link to itself":
        path.symlink_to(path)
    elif what == "broken link":
        path.symlink_to("absent")
    elif what == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes(b"")


class Runs:
    """Runs when it is unpickled by a reader that lets it."""

    def __init__(self, stream: random.Random) -> None:
        self._way = stream.randrange(5)

    def __reduce__(self) -> Any:
        return (
            (os.system, (f"touch {CANARY}",)),
            (open, (CANARY, "w")),
            (exec, (f"open({CANARY!r}, 'w')",)),
            (os.mkdir, (CANARY,)),
            (__import__, ("payload",)),
        )[self._way]


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
