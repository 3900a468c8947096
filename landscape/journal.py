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
from typing import Any

import numpy as np
import safetensors.numpy

from landscape.errors import LandscapeError

_FRAME = struct.Struct("<QI")  # payload length in bytes, CRC-32 of the payload


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Each whole record's end offset and payload, up to the first that is torn or damaged."""
    place = 0
    while place + _FRAME.size <= len(data):
        length, checksum = _FRAME.unpack_from(data, place)
        end = place + _FRAME.size + length
        payload = data[place + _FRAME.size : end]
        if len(payload) < length or zlib.crc32(payload) != checksum:
            return
        yield end, payload
        place = end


def _encode(key: str, arrays: Mapping[str, np.ndarray]) -> bytes:
    body = safetensors.numpy.save({name: np.ascontiguousarray(value) for name, value in arrays.items()})
    name = key.encode()
    return struct.pack("<I", len(name)) + name + body


def _decode(payload: bytes) -> tuple[str, dict[str, np.ndarray]]:
    (length,) = struct.unpack_from("<I", payload)
    return payload[4 : 4 + length].decode(), safetensors.numpy.load(payload[4 + length :])


class Journal:
    """Finished pieces of one piece of work, by key, durable as soon as `write` returns.

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
        header = json.dumps(dict(identity), sort_keys=True).encode()
        self._pieces: dict[str, dict[str, np.ndarray]] = {}
        keep = 0
        for file in self._files():
            records = _records(file.read_bytes())
            if next(records, (0, b""))[1] != header:
                continue
            end = _FRAME.size + len(header)
            for end, payload in records:  # noqa: B007  the last end is what is kept
                key, arrays = _decode(payload)
                self._pieces[key] = arrays
            if file == self.path:
                keep = end
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "r+b" if keep else "w+b")  # noqa: SIM115  closed by close()
            self._file.truncate(keep)
            self._file.seek(keep)
            if not keep:
                self._append(header)
        except OSError as error:
            raise LandscapeError(
                f"cannot write the journal {self.path}: {error.strerror}; choose another --out"
            ) from None

    def _files(self) -> list[Path]:
        siblings = sorted(self._base.parent.glob(f"{self._base.name}.[0-9]*"))
        return [file for file in [self._base, *siblings] if file.is_file()]

    def _append(self, payload: bytes) -> None:
        self._file.write(_FRAME.pack(len(payload), zlib.crc32(payload)) + payload)
        self._file.flush()
        os.fsync(self._file.fileno())

    def __contains__(self, key: str) -> bool:
        return key in self._pieces

    def __getitem__(self, key: str) -> dict[str, np.ndarray]:
        return self._pieces[key]

    def __len__(self) -> int:
        return len(self._pieces)

    def write(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Append one finished piece; raises LandscapeError when the disk is full."""
        try:
            self._append(_encode(key, arrays))
        except OSError as error:
            raise LandscapeError(f"cannot write the journal {self.path}: {error.strerror}; free some space") from None
        self._pieces[key] = {name: np.asarray(value) for name, value in arrays.items()}

    def reload(self) -> None:
        """Take in what the other processes have written since."""
        for file in self._files():
            records = _records(file.read_bytes())
            next(records, None)
            for _, payload in records:
                key, arrays = _decode(payload)
                self._pieces.setdefault(key, arrays)

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
