"""Files that are whole or not there, and what identifies their content."""

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from landscape.errors import LandscapeError


def require_regular(path: Path) -> None:
    """Raise LandscapeError unless `path` is a file: reading a pipe or a device might never end."""
    if not path.is_file():
        raise LandscapeError(f"cannot read {path}: {'it is no regular file' if path.exists() else 'no such file'}")


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal; raises LandscapeError when it cannot be read."""
    require_regular(path)
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise LandscapeError(f"cannot read {path}: {error.strerror or error}") from None


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name beside `path`, make it durable, and rename it.

    Raises
    ------
    LandscapeError
        When that fails; nothing is left behind.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise LandscapeError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another folder"
        ) from None
    finally:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)
