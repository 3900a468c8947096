"""Expensive products kept on disk: a spectrum that is killed goes on where it stood."""

import struct
import time
import zlib
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from landscape.compute import distributed
from landscape.eigen import Operator
from landscape.errors import LandscapeError

# Seconds. Cheaper products are taken again sooner than a person notices, and would only fill the disk.
WORTH_KEEPING = 1.0
# Number of the product, CRC-32 of the vectors, CRC-32 of the product, its bytes, the seconds that it took.
_RECORD = struct.Struct("<QIIQd")


class _Place(NamedTuple):
    """Where a product lies in the file: checksums of its vectors and of itself, offset, bytes; what it took."""

    vectors: int
    product: int
    offset: int
    length: int
    seconds: float


class Replayed:
    """An operator whose expensive products are written to a file and read from there when the work is done again.

    The solvers are deterministic: started again, they ask for the same products in the same order. Each record holds
    the number of the product and a checksum of the vectors it was taken with, so that a product of anything else
    (another machine's rounding, say) is never taken for it; a torn record at the end is cut off.

    Parameters
    ----------
    operator
        What is multiplied with, see :class:`landscape.eigen.Operator`.
    path
        The file; under torchrun rank 0 writes it and all read it. Its size is that of the kept products, 4 bytes a
        parameter each.

    Attributes
    ----------
    replayed
        Number of products with a single vector that came from the file.
    replayed_seconds
        What they took when they were computed.

    Raises
    ------
    LandscapeError
        When the file cannot be written.
    """

    def __init__(self, operator: Operator, path: Path) -> None:
        self.operator = operator
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device
        self.path = path
        self.replayed = 0
        self.replayed_seconds = 0.0
        self._calls = 0
        distributed.barrier()
        self._places, end = self._whole_records()
        # Every process has read the file before one of them writes to it.
        distributed.barrier()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if distributed.is_main():
                path.touch()
                with path.open("r+b") as file:
                    file.truncate(end)
            distributed.barrier()
            self._file = path.open("r+b")
        except OSError as error:
            raise LandscapeError(f"cannot write {path}: {error.strerror}; choose another --out") from None

    @property
    def relative_rounding(self) -> float:
        """The operator's own, see `CurvatureOperator.relative_rounding`."""
        return float(getattr(self.operator, "relative_rounding", 0.0))

    def __enter__(self) -> "Replayed":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file; remove it when the work is whole, or when there is nothing in it."""
        self._file.close()
        if distributed.is_main() and (kind is None or not self.path.stat().st_size):
            self.path.unlink(missing_ok=True)

    def __call__(self, vectors: Tensor) -> Tensor:
        """Product with one vector (n,) or with the columns of (n, k), from the file where it is there."""
        number, self._calls = self._calls, self._calls + 1
        checksum = _checksum(vectors)
        known = self._read(number, checksum, vectors)
        if distributed.world_size() > 1:
            # A product is a sum over all processes: all of them take it, or none.
            having = torch.tensor(float(known is not None), device=self.device)
            known = known if float(distributed.all_reduce(having)) == distributed.world_size() else None
        if known is not None:
            self.replayed += vectors[0].numel()
            self.replayed_seconds += self._places[number].seconds
            return known
        started = time.perf_counter()
        product = self.operator(vectors)
        seconds = time.perf_counter() - started
        if distributed.is_main() and seconds >= WORTH_KEEPING:
            self._write(number, checksum, product, seconds)
        return product

    def _whole_records(self) -> tuple[dict[int, "_Place"], int]:
        """Where each product lies, and the end of the last."""
        places: dict[int, _Place] = {}
        end = 0
        if not self.path.is_file():
            return places, end
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            while end + _RECORD.size <= size:
                file.seek(end)
                number, vectors, product, length, seconds = _RECORD.unpack(file.read(_RECORD.size))
                if end + _RECORD.size + length > size:
                    break
                places[number] = _Place(vectors, product, end + _RECORD.size, length, seconds)
                end += _RECORD.size + length
        return places, end

    def _read(self, number: int, checksum: int, like: Tensor) -> Tensor | None:
        place = self._places.get(number)
        if place is None or place.vectors != checksum or place.length != like.numel() * like.element_size():
            return None
        self._file.seek(place.offset)
        content = self._file.read(place.length)
        if zlib.crc32(content) != place.product:
            return None
        array = np.frombuffer(content, dtype=np.float64 if self.dtype == torch.float64 else np.float32)
        return torch.from_numpy(array.reshape(like.shape).copy()).to(self.device)

    def _write(self, number: int, checksum: int, product: Tensor, seconds: float) -> None:
        content = product.detach().cpu().contiguous().numpy().tobytes()
        try:
            self._file.seek(0, 2)
            self._file.write(_RECORD.pack(number, checksum, zlib.crc32(content), len(content), seconds) + content)
            self._file.flush()
        except OSError as error:
            raise LandscapeError(f"cannot write {self.path}: {error.strerror}; free some space") from None


def _checksum(vectors: Tensor) -> int:
    return zlib.crc32(vectors.detach().cpu().contiguous().numpy().tobytes())
