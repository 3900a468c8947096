"""Files that are whole or not there, and checksums that tell the damaged ones."""

import gzip
import hashlib
import json
import os
import re
import secrets
import stat
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from landscape.errors import LandscapeError, printable

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

Content = bytes | bytearray | memoryview

# Ending of compressed files.
PACKED = ".gz"
# Of unpacked to packed: kept results come to 1.6 to 7, what only takes memory to 1,000.
_LARGEST_RATIO = 100
# Behind the content: libraries that read the content ignore what follows its end.
_SEAL = re.compile(rb"\nlandscape-sha256 ([0-9a-f]{64})\n\Z")
SEAL_LENGTH = 83
_TEMPORARY = re.compile(r"\.landscape-[0-9a-f]{16}\.tmp\Z")
# Seconds. Where files cannot be locked, one that old belongs to no process that still writes it.
_ABANDONED = 3600.0
# Bytes. File systems take 255; what other files beside it are called by may add to a name.
_LONGEST_NAME = 200


class DamagedFile(LandscapeError):
    """A kept file whose content does not match its checksum, or that has none.

    Attributes
    ----------
    finding
        Which file, and what is wrong with it, without the advice.
    """

    def __init__(self, path: Path, what: str, advice: str) -> None:
        self.finding = printable(f"{path} {what}")
        super().__init__(f"{self.finding}: {advice}")


def require_regular(path: Path) -> None:
    """Raise LandscapeError unless `path` is a file: reading a pipe or a device might never end."""
    if not path.is_file():
        raise LandscapeError(f"cannot read {path}: {'it is not a regular file' if path.exists() else 'no such file'}")


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal; raises LandscapeError when it cannot be read."""
    require_regular(path)
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise LandscapeError(f"cannot read {path}: {error.strerror or error}") from None


def file_name(stem: str, ending: str) -> str:
    """`stem` and `ending`; a stem too long for a file system is cut, and distinguished by its SHA-256."""
    if len(os.fsencode(stem + ending)) <= _LONGEST_NAME:
        return stem + ending
    ending = f"-{hashlib.sha256(os.fsencode(stem)).hexdigest()[:12]}{ending}"
    while len(os.fsencode(stem + ending)) > _LONGEST_NAME:
        stem = stem[:-1]
    return stem + ending


def beside(path: Path, what: str) -> Path:
    """``folder/stem-WHAT.ending`` of ``folder/stem.ending``."""
    return path.with_name(file_name(f"{path.stem}-{what}", path.suffix))


def stem(name: str) -> str:
    """``name`` of ``folder/name.and.endings``."""
    return Path(name).name.split(".")[0]


def require_file_name(path: Path) -> None:
    """Raise LandscapeError unless `path` is free or a regular file: folders, devices and pipes are not written over."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise LandscapeError(f"cannot write {path}: {error.strerror}; give another file name") from None
    if stat.S_ISDIR(mode):
        raise LandscapeError(f"cannot write {path}: it is a folder; give a file name")
    if not stat.S_ISREG(mode):
        raise LandscapeError(f"cannot write {path}: it is a device, pipe or socket, not a file; give a file name")


def write_whole(path: Path, *content: Content) -> None:
    """Write a file under a temporary name in the folder of `path`, flush it to the disk, and rename it.

    What processes that were killed meanwhile have left in that folder is deleted. A symbolic link is followed.

    Raises
    ------
    LandscapeError
        When that fails, or `path` is a folder, a device or a pipe; nothing is left behind.
    """
    require_file_name(path)
    target = Path(os.path.realpath(path))
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent)
        temporary, handle = _temporary(target.parent)
        with os.fdopen(handle, "wb", buffering=0) as file:
            for part in content:
                left = memoryview(part).cast("B")
                while left:
                    left = left[file.write(left) :]
            os.fsync(handle)
            os.replace(temporary, target)
    except OSError as error:
        raise LandscapeError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another folder"
        ) from None
    finally:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)


def _temporary(folder: Path) -> tuple[Path, int]:
    """A new file of a short name of its own, open and locked for as long as its process lives."""
    while True:
        path = folder / f".landscape-{secrets.token_hex(8)}.tmp"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)
        # Between the two lines a sweep may have taken it for abandoned.
        if lock(handle) is not False and is_at(path, handle):
            return path, handle
        os.close(handle)


def lock(handle: int) -> bool | None:
    """Lock an open file for as long as it is open; False where another holds it, None where files cannot be locked."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


def is_at(path: Path, handle: int) -> bool:
    """Whether the open file is still what its name means."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except OSError:
        return False


def unlock(handle: int) -> None:
    """Take back `lock`."""
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)


def sweep(folder: Path) -> None:
    """Delete the temporary files that killed processes have left in a folder."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _TEMPORARY.match(entry.name):
                delete_unlocked(Path(entry.path))


def delete_unlocked(path: Path, *, before: float = float("inf")) -> None:
    """Delete a file that no running process has locked, and that was last written `before` a time.

    Where files cannot be locked, only one that was not written for an hour.
    """
    with suppress(OSError):
        handle = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        try:
            locked, written = lock(handle), os.fstat(handle).st_mtime
            if locked is None:
                before = min(before, time.time() - _ABANDONED)
            if locked is not False and written < before and is_at(path, handle):
                os.unlink(path)
        finally:
            os.close(handle)


def write_sealed(path: Path, content: Content) -> None:
    """`write_whole`, with the SHA-256 of the content behind it; libraries such as HDF5 ignore what follows the end.

    Under a name that ends in ``.gz`` all that is compressed, and ``gunzip`` gives the sealed file.
    """
    seal = b"\nlandscape-sha256 %s\n" % hashlib.sha256(content).hexdigest().encode()
    if path.suffix == PACKED:
        # Without a time, so that the same content gives the same bytes.
        sealed = bytes(content) + seal
        packed = gzip.compress(sealed, mtime=0)
        # What would be refused as a bomb when it is read, such as a large array of zeros, is stored as it is.
        fits = len(sealed) <= _LARGEST_RATIO * len(packed)
        write_whole(path, packed if fits else gzip.compress(sealed, compresslevel=0, mtime=0))
    else:
        write_whole(path, content, seal)


def read_sealed(path: Path) -> memoryview:
    """The content of a file that `write_sealed` wrote, checked before anything parses it.

    Raises
    ------
    DamagedFile
        When the checksum is missing or does not match the content.
    LandscapeError
        When the file cannot be read.
    """
    try:
        stored = memoryview(path.read_bytes())
    except OSError as error:
        raise LandscapeError(f"cannot read {path}: {error.strerror}") from None
    if path.suffix == PACKED:
        stored = memoryview(_unpacked(path, stored))
    content, seal = stored[:-SEAL_LENGTH], _SEAL.match(bytes(stored[-SEAL_LENGTH:]))
    if seal is None:
        advice = "measure again, or if it can be trusted, add one: python -m landscape.store --seal FILE"
        raise DamagedFile(path, "has no checksum that would show damage", advice)
    if hashlib.sha256(content).hexdigest().encode() != seal[1]:
        raise DamagedFile(path, "is damaged (its content does not match its checksum)", "measure again")
    return content


def _unpacked(path: Path, stored: Content) -> bytes:
    """What a ``.gz`` holds; a small file that claims gigabytes is refused before they are taken."""
    limit = _LARGEST_RATIO * len(stored)
    packed = zlib.decompressobj(wbits=31)
    try:
        content = packed.decompress(stored, limit)
    except zlib.error as error:
        raise DamagedFile(path, f"is damaged ({error})", "measure again") from None
    if not packed.eof or packed.unused_data:
        what = (
            f"unpacks to over {_LARGEST_RATIO} times its size"
            if packed.unconsumed_tail
            else "does not end as it should"
        )
        raise DamagedFile(path, f"is damaged ({what})", "measure again")
    return content


def write_json(path: Path, facts: Mapping[str, Any]) -> None:
    """Write a JSON object, with the SHA-256 of its other fields as the field ``sha256``, whole or not at all."""
    fields = {name: value for name, value in facts.items() if name != "sha256"}
    write_whole(path, json.dumps({**fields, "sha256": _digest(fields)}, indent=1).encode())


def read_json(path: Path) -> dict[str, Any]:
    """An object that `write_json` wrote.

    Raises
    ------
    DamagedFile
        When the checksum is missing or does not match, or when the file is not a JSON object.
    LandscapeError
        When the file cannot be read.
    """
    try:
        facts = json.loads(path.read_bytes())
        given = facts.pop("sha256")
        digest = _digest(facts)
    except OSError as error:
        raise LandscapeError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DamagedFile(path, "is damaged, or no JSON object with a sha256 of its fields", "make it again") from None
    if digest != given:
        raise DamagedFile(path, "is damaged (its fields do not match its sha256)", "make it again")
    return dict(facts)


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()
