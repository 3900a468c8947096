"""Files of ``torch.save``: the archive of today and the format before version 1.6, read without unpickling.

Sizes are bounded by the file's own before anything is allocated: a tensor must lie inside the bytes that the file has
for it, and all tensors together may exceed the file (views of one storage do) only by a factor.
"""

import io
import math
import mmap
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from landscape.checkpoint.content import Content, StateDict, damaged, is_average, require_type, whole_network
from landscape.errors import LandscapeError, printable
from landscape.store.pickles import Interpreter, Opaque, PickleError, Storage, TensorRecord

# Tied weights are written once and read as often as they have names: more than eight times is not a network.
_REPEATED = 8
_SMALL = 2**20
# How deep in nested dictionaries weights are looked for.
_DEPTH = 4
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_ZIP_ERRORS = (
    PickleError,
    zipfile.BadZipFile,
    OSError,
    ValueError,
    KeyError,
    IndexError,
    OverflowError,
    NotImplementedError,
    EOFError,
    struct.error,
)


@dataclass
class _Blocks:
    """Where in a file the numbers of each storage are, and tensors made of them."""

    path: Path
    spans: dict[str, tuple[int, int]]
    total: int
    checks: dict[str, int] = field(default_factory=dict)
    _cache: dict[str, torch.Tensor] = field(default_factory=dict)

    def require_bounded(self, records: Mapping[str, TensorRecord]) -> None:
        """Raise LandscapeError when tensors reach beyond their storages, or are larger together than the file."""
        total = 0
        for name, record in records.items():
            _, length = self.spans.get(record.storage.key, (0, -1))
            width = _width(record.dtype)
            if length < 0 or record.storage.count * _width(record.storage.dtype) > length:
                raise damaged(self.path, "checkpoint", f"the numbers of {name} are not in it")
            count = math.prod(record.shape)
            last = record.offset + sum(
                (each - 1) * step for each, step in zip(record.shape, record.stride, strict=True)
            )
            if count and (last + 1) * width > length:
                raise damaged(self.path, "checkpoint", f"{name} reaches beyond its numbers")
            if count * width > max(_SMALL, length):
                raise LandscapeError(
                    f"{name} of {self.path} repeats a few numbers {count} times over: save a contiguous tensor"
                )
            total += count * width
        if total > _REPEATED * self.total + 64 * _SMALL:
            raise LandscapeError(
                f"the tensors of {self.path} are {total} bytes, the file is {self.total}: it is not a network's"
            )

    def tensor(self, name: str, record: TensorRecord) -> torch.Tensor:
        """The tensor that a record describes, by its name in the file."""
        key = record.storage.key
        if key not in self._cache:
            start, length = self.spans[key]
            with open(self.path, "rb") as file:
                file.seek(start)
                raw = bytearray(file.read(length))
            if len(raw) != length or (self.checks.get(key) and zlib.crc32(raw) != self.checks[key]):
                raise damaged(self.path, "checkpoint", "numbers in it have changed")
            self._cache = {key: torch.frombuffer(raw, dtype=torch.uint8) if raw else torch.empty(0, dtype=torch.uint8)}
        dtype = getattr(torch, record.dtype, None)
        require_type(dtype, name, self.path)
        assert isinstance(dtype, torch.dtype)
        raw_numbers = self._cache[key]
        whole = raw_numbers[: len(raw_numbers) // dtype.itemsize * dtype.itemsize]
        numbers = whole != 0 if dtype == torch.bool else whole.view(dtype) if len(whole) else whole.to(dtype)
        return numbers.as_strided(record.shape, record.stride, record.offset).contiguous()


def _width(dtype: str) -> int:
    value = getattr(torch, dtype, None)
    return value.itemsize if isinstance(value, torch.dtype) else 1


@dataclass
class _Archive:
    """A zip archive that torch.save wrote: its description, interpreted, and where its storages are."""

    value: Any
    interpreter: Interpreter
    spans: dict[str, tuple[int, int]]
    checks: dict[str, int]


def read_archive(path: Path, size: int) -> Content:
    """What a zip archive that torch.save wrote holds."""
    with open(path, "rb") as file:
        archive = _archive(file, size, path)
    return _content(archive.value, archive.interpreter, _Blocks(path, archive.spans, size, archive.checks))


def require_plain(data: bytes, path: Path) -> None:
    """Raise LandscapeError when an archive that torch.save wrote is more than tensors and plain values.

    For files whose every part is used, before ``torch.load(weights_only=True)``: that runs no code either, but makes
    some objects of any size a file asks for.
    """
    archive = _archive(io.BytesIO(data), len(data), path)
    if archive.interpreter.opaque:
        raise damaged(path, "checkpoint", f"it holds a {archive.interpreter.opaque[0]}")


def _archive(file: BinaryIO, size: int, path: Path) -> _Archive:
    try:
        with zipfile.ZipFile(file) as archive:
            members = {member.filename: member for member in archive.infolist()}
        pickles = sorted((name for name in members if name.rpartition("/")[2] == "data.pkl"), key=len)
        if not pickles:
            raise LandscapeError(f"{path} is a zip archive without data.pkl, so torch.save did not write it")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}constants.pkl" in members:
            raise LandscapeError(
                f"{path} is a TorchScript program, which reading would run: load it yourself with torch.jit.load, and "
                "save model.state_dict()"
            )
        order = f"{root}byteorder"
        if order in members and _bytes(file, *_span(file, members[order], size)) != b"little":
            raise LandscapeError(f"{path} was written on a big-endian machine: save it again on a usual one")
        pickle = _bytes(file, *_span(file, members[pickles[0]], size))
        if zlib.crc32(pickle) != members[pickles[0]].CRC:
            raise PickleError("its description has changed")
        stored = {name.removeprefix(f"{root}data/"): name for name in members if name.startswith(f"{root}data/")}
        spans = {key: _span(file, members[name], size) for key, name in stored.items()}
        interpreter = Interpreter()
        value = interpreter.read(io.BytesIO(pickle))
    except LandscapeError:
        raise
    except _ZIP_ERRORS as error:
        raise damaged(path, "checkpoint", error) from None
    return _Archive(value, interpreter, spans, {key: members[name].CRC for key, name in stored.items()})


def _span(file: BinaryIO, member: zipfile.ZipInfo, size: int) -> tuple[int, int]:
    """Where a member's bytes begin, and how many there are."""
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise PickleError(f"{member.filename} is compressed or encrypted, which torch.save never does")
    file.seek(member.header_offset)
    header = file.read(30)
    if len(header) != 30 or header[:4] != b"PK\x03\x04":
        raise PickleError(f"{member.filename} is not where the directory says")
    start = member.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
    if start < 0 or start + member.file_size > size:
        raise PickleError(f"{member.filename} reaches beyond the file")
    return start, member.file_size


def _bytes(file: BinaryIO, start: int, length: int) -> bytes:
    file.seek(start)
    return file.read(length)


def read_legacy(path: Path, size: int) -> Content:
    """What a file of torch.save before version 1.6 holds: four pickles, then the storages."""
    if size == 0:
        raise damaged(path, "checkpoint", "it is empty")
    try:
        interpreter = Interpreter()
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            stream = cast("BinaryIO", mapped)
            first = interpreter.read(stream)
            if not isinstance(first, int) or first != _LEGACY_MAGIC:
                raise _not_torch(path, first, interpreter)
            protocol, machine = interpreter.read(stream), interpreter.read(stream)
            if (
                protocol != _LEGACY_PROTOCOL
                or not isinstance(machine, dict)
                or machine.get("little_endian") is not True
            ):
                raise PickleError("it is of an unknown version or byte order")
            value = interpreter.read(stream)
            keys = interpreter.read(stream)
            if not isinstance(keys, list):
                raise PickleError("its storages are not listed")
            spans, start = {}, stream.tell()
            for key in keys:
                storage = interpreter.storages.get(str(key)) or Storage(str(key), "uint8", 0)
                header = mapped[start : start + 8]
                (count,) = struct.unpack("<q", header)
                length = count * _width(storage.dtype)
                if count < 0 or start + 8 + length > size:
                    raise PickleError("it ends too soon")
                spans[storage.key] = (start + 8, length)
                start += 8 + length
    except LandscapeError:
        raise
    except (PickleError, OSError, ValueError, struct.error, OverflowError) as error:
        raise damaged(path, "checkpoint", error) from None
    return _content(value, interpreter, _Blocks(path, spans, size))


def _not_torch(path: Path, value: Any, interpreter: Interpreter) -> LandscapeError:
    if interpreter.running:
        return _runs(path, interpreter)
    return LandscapeError(
        f"{path} is a pickle of a {_kind(value)} that torch.save did not write: save model.state_dict() with torch.save"
    )


def _runs(path: Path, interpreter: Interpreter) -> LandscapeError:
    return LandscapeError(
        f"{path} calls {printable(interpreter.running[0], 80)} and would run code when it is unpickled, so it is not "
        "read: do not open it with other programs; if you trust its author, ask for model.state_dict() instead"
    )


def _kind(value: Any) -> str:
    return printable(value.name, 80) if isinstance(value, Opaque) else type(value).__name__


def _content(value: Any, interpreter: Interpreter, blocks: _Blocks) -> Content:
    """State dicts and everything else in what torch.save wrote."""
    path = blocks.path
    if interpreter.running:
        raise _runs(path, interpreter)
    network = _network(value)
    states = []
    for entry, members in _dictionaries(value):
        records = {str(name): each for name, each in members.items() if isinstance(each, TensorRecord)}
        if records:
            blocks.require_bounded(records)
            opaque = {str(name): each.name for name, each in members.items() if isinstance(each, Opaque)}
            shapes = {name: record.shape for name, record in records.items()}
            sources = {name: (name, record) for name, record in records.items()}
            states.append(StateDict(entry, shapes, opaque, sources, lambda source: blocks.tensor(*source)))
    if not states:
        if network is not None:
            raise whole_network(path, network)
        listed = ", ".join(printable(name, 40) for name in list(value)[:6]) if isinstance(value, dict) else ""
        raise LandscapeError(
            f"{path} holds no state dict but a {_kind(value)}{f' with entries {listed}' if listed else ''}: "
            "save model.state_dict(), bare or under 'state_dict'"
        )
    # An average over training is another network than the one that the rest of the file describes.
    states.sort(key=lambda state: is_average(state.entry))
    named = value.get("name") if isinstance(value, dict) else None
    used = {state.entry.partition(".")[0] for state in states}
    entries = tuple(str(name) for name in value if str(name) not in used) if isinstance(value, dict) else ()
    if any(state.entry == "" for state in states):
        entries = tuple(name for name in entries if not isinstance(value.get(name), TensorRecord))
    return Content(path, states, {}, entries, named if isinstance(named, str) else None, network=network)


def _network(value: Any) -> str | None:
    """Class of a pickled network, there or one level down."""
    for each in (value, *(value.values() if isinstance(value, dict) else ())):
        if isinstance(each, Opaque) and (each.network or each.name.startswith("torch.nn.modules")):
            return each.name
    return None


def _dictionaries(value: Any) -> Iterator[tuple[str, dict[Any, Any]]]:
    """Dictionaries, outermost first, to a small depth; each once."""
    seen: set[int] = set()
    level = [("", value)]
    for _ in range(_DEPTH):
        below: list[tuple[str, Any]] = []
        for entry, each in level:
            if isinstance(each, dict) and id(each) not in seen:
                seen.add(id(each))
                yield entry, each
                inner = [(name, part) for name, part in each.items() if isinstance(part, dict)]
                below += [(f"{entry}.{name}" if entry else str(name), part) for name, part in inner[:64]]
        level = below
