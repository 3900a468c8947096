"""A journal of finished pieces: long work that is killed at any moment loses at most the piece in flight.

The file is append-only: a header that names the work, then one checksummed record a piece. A record that was cut off by
a crash fails its checksum and is dropped, with everything behind it, when the journal is next opened.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import safetensors.numpy

from landscape.errors import LandscapeError

_FRAME = struct.Struct("<QI")  # payload length in bytes, CRC-32 of the payload


def _records(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Each whole record's end offset and payload, from where `file` stands up to the first that is torn or damaged."""
    place, size = file.tell(), os.fstat(file.fileno()).st_size
    while len(frame := file.read(_FRAME.size)) == _FRAME.size:
        length, checksum = _FRAME.unpack(frame)
        place += _FRAME.size + length
        # A crash of the machine may leave anything behind the last record, zeros above all.
        if not 0 < length <= size or place > size or zlib.crc32(payload := file.read(length)) != checksum:
            return
        yield place, payload


def _key(payload: bytes) -> str:
    (length,) = struct.unpack_from("<I", payload)
    return payload[4 : 4 + length].decode()


def _encode(key: str, arrays: Mapping[str, np.ndarray]) -> bytes:
    body = safetensors.numpy.save({name: np.ascontiguousarray(value) for name, value in arrays.items()})
    name = key.encode()
    return struct.pack("<I", len(name)) + name + body


def _decode(payload: bytes) -> dict[str, np.ndarray]:
    (length,) = struct.unpack_from("<I", payload)
    return safetensors.numpy.load(payload[4 + length :])


class Journal:
    """Finished pieces of one piece of work, by key, durable as soon as `write` returns.

    Pieces stay in the file and are read when asked for, so that memory does not grow with their number.

    Parameters
    ----------
    path
        The file. Under torchrun every process writes a file of its own beside it (``.1``, ``.2``, ...), and all of
        them read all files when they start.
    identity
        What work this is, JSON-ready (protocol, settings, checkpoint hash). A file of other work at the same path is
        started anew, since its pieces would be wrong here.
    process
        Number of the writing process.

    Raises
    ------
    LandscapeError
        When the file cannot be written.
    """

    def __init__(self, path: Path | str, identity: Mapping[str, Any], *, process: int = 0) -> None:
        self._base = Path(path)
        self.path = self._base if process == 0 else self._base.with_name(f"{self._base.name}.{process}")
        self._header = json.dumps(dict(identity), sort_keys=True).encode()
        self._places: dict[str, tuple[Path, int]] = {}
        keep = 0
        for file in self._files():
            end = self._take_in(file)
            if file == self.path:
                keep = end
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "r+b" if keep else "w+b")  # noqa: SIM115  closed by close()
            self._file.truncate(keep)
            self._file.seek(keep)
            if not keep:
                self._append(self._header)
        except OSError as error:
            raise LandscapeError(
                f"cannot write the journal {self.path}: {error.strerror}; choose another --out"
            ) from None

    def _files(self) -> list[Path]:
        siblings = sorted(self._base.parent.glob(f"{self._base.name}.[0-9]*"))
        return [file for file in [self._base, *siblings] if file.is_file()]

    def _take_in(self, file: Path) -> int:
        """Learn where the whole pieces of a file are; the end of the last one, 0 if the file is of other work."""
        with open(file, "rb") as opened:
            records = _records(opened)
            end, first = next(records, (0, b""))
            if first != self._header:
                return 0
            for after, payload in records:
                self._places.setdefault(_key(payload), (file, end))
                end = after
        return end

    def _append(self, payload: bytes) -> None:
        self._file.write(_FRAME.pack(len(payload), zlib.crc32(payload)) + payload)
        self._file.flush()
        os.fsync(self._file.fileno())

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __getitem__(self, key: str) -> dict[str, np.ndarray]:
        file, place = self._places[key]
        with open(file, "rb") as opened:
            opened.seek(place)
            for _, payload in _records(opened):
                return _decode(payload)
        raise LandscapeError(f"the journal {file} was changed while in use: remove it and start again")

    def __len__(self) -> int:
        return len(self._places)

    def write(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Append one finished piece; raises LandscapeError when the disk is full."""
        place = self._file.tell()
        try:
            self._append(_encode(key, arrays))
        except OSError as error:
            raise LandscapeError(f"cannot write the journal {self.path}: {error.strerror}; free some space") from None
        self._places[key] = (self.path, place)

    def reload(self) -> None:
        """Take in what the other processes have written since."""
        for file in self._files():
            self._take_in(file)

    def close(self) -> None:
        """Close the file and keep it."""
        self._file.close()

    def remove(self) -> None:
        """Delete the journal of all processes: the work is whole and stored elsewhere."""
        self.close()
        for file in self._files():
            file.unlink(missing_ok=True)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
