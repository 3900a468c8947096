"""A journal of finished pieces: long work that is killed at any moment loses at most the piece in flight.

The file is append-only: a header that names the work, then one record per piece. Each record stands behind its length
and its SHA-256, which covers the work's name, the piece's key and its numbers: a record that was cut off by a crash,
damaged, or comes from other work does not match, and is dropped with everything behind it when the journal is opened.
"""

import errno
import hashlib
import json
import logging
import os
import re
import struct
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import safetensors.numpy

from landscape.errors import LandscapeError, printable
from landscape.store import files

_log = logging.getLogger(__name__)
_FRAME = struct.Struct("<Q32s")  # length of the payload in bytes; SHA-256 of the work's digest and the payload


def _digest(work: bytes, payload: bytes) -> bytes:
    digest = hashlib.sha256(work)
    digest.update(payload)
    return digest.digest()


def _read(handle: int, offset: int, length: int) -> bytes:
    """So many bytes from an open file, fewer at its end; a single read gives at most 2 GiB."""
    parts = []
    while length and (part := os.pread(handle, length, offset)):
        parts.append(part)
        offset, length = offset + len(part), length - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _record(handle: int, offset: int, work: bytes | None) -> tuple[int, bytes] | None:
    """End and payload of the record at `offset`, None where there is no whole one; without `work`, of a header."""
    frame = _read(handle, offset, _FRAME.size)
    if len(frame) < _FRAME.size:
        return None
    length, digest = _FRAME.unpack(frame)
    end = offset + _FRAME.size + length
    # A crash of the machine may leave anything behind the last record, zeros above all.
    if not length or end > os.fstat(handle).st_size:
        return None
    payload = _read(handle, offset + _FRAME.size, length)
    if work is None:
        work = hashlib.sha256(payload).digest()
    return (end, payload) if _digest(work, payload) == digest else None


def _encode(key: str, arrays: Mapping[str, np.ndarray]) -> bytes:
    body = safetensors.numpy.save({name: np.ascontiguousarray(value) for name, value in arrays.items()})
    name = key.encode()
    return struct.pack("<I", len(name)) + name + body


def _split(payload: bytes) -> tuple[str, bytes]:
    """Key and encoded arrays of a piece."""
    (length,) = struct.unpack_from("<I", payload)
    return payload[4 : 4 + length].decode(), payload[4 + length :]


def _files(base: Path) -> list[Path]:
    """The files of all processes."""
    name = re.compile(re.escape(base.name) + r"(\.[0-9]+)?\Z")
    return sorted(file for file in base.parent.iterdir() if name.match(file.name) and file.is_file())


def remove(base: Path, *, before: float = float("inf")) -> None:
    """Delete the files of a journal that no running process writes and that were last written `before` a time."""
    with suppress(OSError):
        for file in _files(base):
            files.delete_unlocked(file, before=before)


class Journal:
    """Finished pieces of one piece of work, by key, durable as soon as `write` returns.

    Pieces stay in the file and are read on access, so that memory does not grow with their number. Damage is
    logged as a warning; what was damaged counts as not finished.

    Parameters
    ----------
    path
        The file. Each process appends to a file of its own: where another one, that still runs, has this file, to
        ``path.1``, ``path.2`` and so on. All of these are read when the journal is opened.
    identity
        What work this is, JSON-ready (protocol, settings, checkpoint hash). A file of other work at the same path is
        started anew, since its pieces would be wrong here.
    process
        Number of the process under torchrun, the first number that is tried.

    Attributes
    ----------
    base
        `path` as given, the same in every process.

    Raises
    ------
    LandscapeError
        When the file cannot be written.
    """

    def __init__(self, path: Path | str, identity: Mapping[str, Any], *, process: int = 0) -> None:
        self.base = Path(path)
        self._header = json.dumps(dict(identity), sort_keys=True).encode()
        self._work = hashlib.sha256(self._header).digest()
        # Open files: what another process deletes stays readable here.
        self._handles: list[int] = []
        self._places: dict[str, tuple[int, int]] = {}
        self._handle = -1
        folder = self.base.parent
        self._new_folders = [each for each in (folder, *folder.parents) if not each.exists()]
        try:
            self.base.parent.mkdir(parents=True, exist_ok=True)
            self.path, self._handle = self._own_file(process)
            self._handles.append(self._handle)
            self._end = self._read_in(self.path, self._handle, own=True)
            for file in _files(self.base):
                if file != self.path:
                    self._handles.append(os.open(file, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)))
                    self._read_in(file, self._handles[-1], own=False)
            os.ftruncate(self._handle, self._end)
            if not self._end:
                self._append(self._header)
        except OSError as error:
            self.close()
            raise LandscapeError(
                f"cannot write the journal {self.base}: {error.strerror or error}; free space or choose another --out"
            ) from None

    def _own_file(self, first: int) -> tuple[Path, int]:
        """The first file that no running process has, locked for as long as this one runs."""
        for number in count(first):
            path = self.base.with_name(f"{self.base.name}.{number}") if number else self.base
            files.require_file_name(path)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
            # Between opening and locking, the process that had the file may have finished and deleted it.
            if files.lock(handle) is not False and files.is_at(path, handle):
                return path, handle
            os.close(handle)
        raise AssertionError

    def _read_in(self, file: Path, handle: int, *, own: bool) -> int:
        """Learn where the whole pieces of a file are; the end of the last one, 0 if the file is of other work."""
        header, end, pieces = _record(handle, 0, None), 0, 0
        if header is not None:
            if header[1] != self._header:
                return 0
            end = header[0]
            while (record := _record(handle, end, self._work)) is not None:
                self._places.setdefault(_split(record[1])[0], (handle, end))
                end, pieces = record[0], pieces + 1
        left = os.fstat(handle).st_size - end
        # The last record of another process that runs may be half written.
        if left > 0 and (own or files.lock(handle)):
            what = "cut off or damaged" if pieces else "damaged"
            _log.warning("%s is %s behind piece %d: what follows is measured again", printable(file), what, pieces)
        if not own:
            files.unlock(handle)
        return end

    def _append(self, payload: bytes) -> None:
        left = memoryview(_FRAME.pack(len(payload), _digest(self._work, payload)) + payload)
        offset = self._end
        try:
            while left:
                written = os.pwrite(self._handle, left, offset)
                left, offset = left[written:], offset + written
            os.fsync(self._handle)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._handle, self._end)
            raise
        self._end = offset

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __getitem__(self, key: str) -> dict[str, np.ndarray]:
        handle, offset = self._places[key]
        record = _record(handle, offset, self._work)
        if record is not None:
            name, body = _split(record[1])
            if name == key:
                return safetensors.numpy.load(body)
        raise LandscapeError(f"the journal {self.base} was changed while in use: the same command starts again")

    def __len__(self) -> int:
        return len(self._places)

    def write(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Append one finished piece; raises LandscapeError when the disk is full, what is finished stays."""
        offset = self._end
        try:
            self._append(_encode(key, arrays))
        except OSError as error:
            reason = error.strerror or errno.errorcode.get(error.errno or 0, "")
            raise LandscapeError(f"cannot write the journal {self.path}: {reason}; free some space") from None
        self._places[key] = (self._handle, offset)

    def close(self) -> None:
        """Close the files; without a single piece of our own, our file is deleted, and folders made for it."""
        if self._handle in self._handles and all(handle != self._handle for handle, _ in self._places.values()):
            self._delete_own()
            for folder in self._new_folders:
                with suppress(OSError):  # something else is in it
                    folder.rmdir()
        for handle in self._handles:
            os.close(handle)
        self._handles = []

    def remove(self) -> None:
        """Delete the journal, but for what other running processes write: the work is whole and stored elsewhere."""
        if self._handle in self._handles:
            self._delete_own()
        remove(self.base)
        self._places = {}
        self.close()

    def _delete_own(self) -> None:
        if files.is_at(self.path, self._handle):
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
