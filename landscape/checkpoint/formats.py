"""What files hold: state dicts of any origin as tensors, read without running anything.

Sizes are bounded by the file's own before anything is allocated: a tensor must lie inside the bytes that the file has
for it, and all tensors together may exceed the file (views of one storage do) only by a factor.
"""

import hashlib
import io
import json
import math
import mmap
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import safetensors
import torch

from landscape.checkpoint.pickles import Interpreter, Opaque, PickleError, Storage, TensorRecord
from landscape.errors import LandscapeError, printable
from landscape.store import files

ENDINGS = re.compile(r"\.(safetensors|pth\.tar|pt|pth|th|ckpt|bin|pkl|tar)$")
# Tied weights are written once and read as often as they have names: more than eight times is no network.
_REPEATED = 8
_SMALL = 2**20
_DEPTH = 4
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
# The files of a folder that save_pretrained, save_model or save_state wrote, best first.
_FOLDER_FILES = ("model.safetensors", "pytorch_model.bin", "diffusion_pytorch_model.safetensors")
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
_FLOATING = {"float64", "float32", "float16", "bfloat16"}


@dataclass
class StateDict:
    """One collection of tensors in a file.

    Attributes
    ----------
    entry
        Where in the file, e.g. ``state_dict``; empty for the file itself.
    shapes
        By name, of every tensor.
    opaque
        By name, what stands where a tensor might have stood: the class or function that would make it.
    """

    entry: str
    shapes: dict[str, tuple[int, ...]]
    opaque: dict[str, str] = field(default_factory=dict)
    _sources: dict[str, Any] = field(default_factory=dict, repr=False)
    _reader: Any = field(default=None, repr=False)

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor as the file has it, contiguous, on the CPU; raises LandscapeError."""
        return self._reader(self._sources[name])


@dataclass
class Content:
    """What a file or folder holds.

    Attributes
    ----------
    path
        The file or folder.
    states
        Its collections of tensors, those that are an average over training (EMA) last.
    metadata
        Header of a safetensors file.
    entries
        Names of everything else in it.
    name
        A network's name in it, as the paper's authors keep it under ``name``.
    config
        Of a folder that ``save_pretrained`` wrote, as parsed; None elsewhere.
    network
        Class of a whole pickled network in it, which is not read; None without one.
    sha256
        Of the file, or of all of a folder's files together.
    """

    path: Path
    states: list[StateDict]
    metadata: dict[str, str] = field(default_factory=dict)
    entries: tuple[str, ...] = ()
    name: str | None = None
    config: dict[str, Any] | None = None
    network: str | None = None
    sha256: str = ""


def read(path: Path) -> Content:
    """What a file or folder holds; its tensors are read when they are used.

    Raises
    ------
    LandscapeError
        When it is missing, damaged, no checkpoint, or holds a pickled network rather than weights.
    """
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        kind = "no regular file" if path.exists() else "absent"
        raise LandscapeError(f"no checkpoint {path} ({kind}): give an existing file or a recipe's name")
    content = _file(path)
    content.sha256 = files.sha256(path)
    return content


def _file(path: Path) -> Content:
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(16)
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return _safetensors(path, size)
    if start[:4] == b"PK\x03\x04":
        return _zip(path, size)
    if start[:4] == b"\x89HDF":
        raise LandscapeError(f"{path} is an HDF5 file, not PyTorch's: save model.state_dict() with torch.save")
    return _legacy(path, size)


def _damaged(path: Path, what: str, error: object) -> LandscapeError:
    return LandscapeError(f"{path} is no whole {what} ({printable(one_line(error), 200)}): copy it again")


def _safetensors(path: Path, size: int) -> Content:
    try:
        # Checks that all tensors lie inside the file and that none overlap.
        with safetensors.safe_open(str(path), framework="pt") as file:
            metadata = dict(file.metadata() or {})
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # the library raises its own, and OSError, ValueError and OverflowError besides
        raise _damaged(path, "safetensors file", error) from None

    def tensor(name: str) -> torch.Tensor:
        try:
            with safetensors.safe_open(str(path), framework="pt") as file:
                found = file.get_tensor(name)
        except Exception as error:
            raise _damaged(path, "safetensors file", error) from None
        _require_type(found.dtype, name, path)
        return found

    return Content(path, [StateDict("", shapes, {}, {name: name for name in shapes}, tensor)], metadata)


# ----- torch.save -----


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
                raise _damaged(self.path, "checkpoint", f"the numbers of {name} are not in it")
            count = math.prod(record.shape)
            last = record.offset + sum(
                (each - 1) * step for each, step in zip(record.shape, record.stride, strict=True)
            )
            if count and (last + 1) * width > length:
                raise _damaged(self.path, "checkpoint", f"{name} reaches beyond its numbers")
            if count * width > max(_SMALL, length):
                raise LandscapeError(
                    f"{name} of {self.path} repeats a few numbers {count} times over: save a contiguous tensor"
                )
            total += count * width
        if total > _REPEATED * self.total + 64 * _SMALL:
            raise LandscapeError(
                f"the tensors of {self.path} are {total} bytes, the file is {self.total}: it is no network's"
            )

    def tensor(self, record: TensorRecord) -> torch.Tensor:
        """The tensor that a record describes."""
        key = record.storage.key
        if key not in self._cache:
            start, length = self.spans[key]
            with open(self.path, "rb") as file:
                file.seek(start)
                raw = bytearray(file.read(length))
            if len(raw) != length or (self.checks.get(key) and zlib.crc32(raw) != self.checks[key]):
                raise _damaged(self.path, "checkpoint", "numbers in it have changed")
            self._cache = {key: torch.frombuffer(raw, dtype=torch.uint8) if raw else torch.empty(0, dtype=torch.uint8)}
        dtype = getattr(torch, record.dtype, None)
        _require_type(dtype, record.storage.key, self.path)
        assert isinstance(dtype, torch.dtype)
        raw_numbers = self._cache[key]
        whole = raw_numbers[: len(raw_numbers) // dtype.itemsize * dtype.itemsize]
        numbers = whole != 0 if dtype == torch.bool else whole.view(dtype) if len(whole) else whole.to(dtype)
        return numbers.as_strided(record.shape, record.stride, record.offset).contiguous()


def _width(dtype: str) -> int:
    found = getattr(torch, dtype, None)
    return found.itemsize if isinstance(found, torch.dtype) else 1


def _require_type(dtype: Any, name: str, path: Path) -> None:
    short = str(dtype).removeprefix("torch.")
    if not isinstance(dtype, torch.dtype) or (
        short not in _FLOATING and short not in ("bool", "uint8", "int8", "int16", "int32", "int64")
    ):
        raise LandscapeError(f"{name} of {path} is stored as {short}: convert the weights to float32 first")


@dataclass
class _Archive:
    """A zip archive that torch.save wrote: its description, interpreted, and where its storages are."""

    value: Any
    interpreter: Interpreter
    spans: dict[str, tuple[int, int]]
    checks: dict[str, int]


def _zip(path: Path, size: int) -> Content:
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
        raise _damaged(path, "checkpoint", f"it holds a {archive.interpreter.opaque[0]}")


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
        raise _damaged(path, "checkpoint", error) from None
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


def _legacy(path: Path, size: int) -> Content:
    """Files of torch.save before version 1.6: four pickles, then the storages."""
    if size == 0:
        raise _damaged(path, "checkpoint", "it is empty")
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
            spans, place = {}, stream.tell()
            for key in keys:
                storage = interpreter.storages.get(str(key)) or Storage(str(key), "uint8", 0)
                header = mapped[place : place + 8]
                (count,) = struct.unpack("<q", header)
                length = count * _width(storage.dtype)
                if count < 0 or place + 8 + length > size:
                    raise PickleError("it ends too soon")
                spans[storage.key] = (place + 8, length)
                place += 8 + length
    except LandscapeError:
        raise
    except (PickleError, OSError, ValueError, struct.error, OverflowError) as error:
        raise _damaged(path, "checkpoint", error) from None
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
    for entry, found in _dictionaries(value):
        records = {str(name): each for name, each in found.items() if isinstance(each, TensorRecord)}
        if records:
            blocks.require_bounded(records)
            opaque = {str(name): each.name for name, each in found.items() if isinstance(each, Opaque)}
            shapes = {name: record.shape for name, record in records.items()}
            states.append(StateDict(entry, shapes, opaque, dict(records), blocks.tensor))
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


def whole_network(path: Path, network: str) -> LandscapeError:
    """What to do about a file that holds a pickled network instead of its weights."""
    weights = f"{ENDINGS.sub('', path.name)}-weights.pth"
    return LandscapeError(
        f"{path} holds a whole network ({printable(network, 80)}), more than weights, and unpickling it would run "
        f"code: if you trust it, write its weights, model = torch.load({path.name!r}, weights_only=False); "
        f"torch.save(model.state_dict(), {weights!r}), and give {weights}"
    )


def is_average(name: str) -> bool:
    """Whether a name says that weights are an average over training, rather than those that the optimizer has."""
    return bool(re.search(r"ema|swa|average|shadow|teacher", name, re.IGNORECASE))


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


# ----- folders -----


def _folder(path: Path) -> Content:
    """A folder that ``save_pretrained``, ``save_model`` or Accelerate's ``save_state`` wrote."""
    names = _folder_files(path)
    parts = [_file(path / name) for name in names]
    config = path / "config.json"
    parsed = plain_json(config) if config.is_file() else None
    shapes: dict[str, tuple[int, ...]] = {}
    opaque: dict[str, str] = {}
    sources: dict[str, Any] = {}
    for part in parts:
        state = part.states[0]
        if twice := shapes.keys() & state.shapes.keys():
            raise LandscapeError(f"{path} has {min(twice)} in two files: it is no whole checkpoint; copy it again")
        shapes |= state.shapes
        opaque |= state.opaque
        sources |= {name: (state, name) for name in state.shapes}
    digest = hashlib.sha256()
    for name in sorted({*names, *(["config.json"] if parsed is not None else [])}):
        digest.update(f"{name}:{files.sha256(path / name)}\n".encode())
    whole = StateDict("", shapes, opaque, sources, lambda source: source[0].tensor(source[1]))
    return Content(path, [whole], config=parsed, sha256=digest.hexdigest())


def _folder_files(path: Path) -> list[str]:
    for name in _FOLDER_FILES:
        if (path / name).is_file():
            return [name]
        index = path / f"{name}.index.json"
        if index.is_file():
            listed = (plain_json(index) or {}).get("weight_map")
            if not isinstance(listed, dict) or not listed:
                raise LandscapeError(f"{index} lists no weights: copy it again")
            shards = list(dict.fromkeys(listed.values()))
            for shard in shards:
                # A shard is a file of this folder: what the index says may not lead elsewhere.
                if not isinstance(shard, str) or Path(shard).name != shard or not (path / shard).is_file():
                    raise LandscapeError(f"{index} lists a file {shard!r} that is not in {path}: copy it again")
            return shards
    raise LandscapeError(
        f"{path} is a folder without {' or '.join(_FOLDER_FILES[:2])}: give a checkpoint file, or a folder that "
        "save_pretrained wrote"
    )


def plain_json(path: Path) -> dict[str, Any]:
    """A JSON object of a file; raises LandscapeError when it is none, or nested or long beyond use."""
    try:
        if path.stat().st_size > 64 * _SMALL:
            raise ValueError("it is too long")
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, "JSON file", error) from None
    if not isinstance(parsed, dict):
        raise _damaged(path, "JSON file", f"it is a {type(parsed).__name__}")
    return parsed


def one_line(error: object) -> str:
    """The message of an error, its white space squeezed."""
    return " ".join(str(error).split())[:200]
