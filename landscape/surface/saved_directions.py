"""Directions in safetensors files, by parameter name; what a file says is checked before it is used or shown."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from landscape.errors import LandscapeError, printable
from landscape.objective import Objective
from landscape.store.files import DamagedFile, require_regular, write_whole
from landscape.surface.directions import Directions, normalized

# Bounds of what a file's header may say.
_LONGEST_NAME = 200
_LONGEST_HEADER = 2**20
_FARTHEST = 1e12
_FACT = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,60}")


def save(axes: Directions, objective: Objective, path: Path | str) -> Path:
    """Keep directions in a safetensors file, by parameter name, whole or not at all."""
    tensors = {}
    for index, vector in enumerate(axes.vectors):
        for name, part in zip(objective.space.names, objective.space.split(vector), strict=True):
            tensors[f"{index}/{name}"] = part.cpu().contiguous()
    header = {
        "kind": axes.kind,
        "facts": json.dumps(dict(axes.facts)),
        "marks": json.dumps({name: list(position) for name, position in axes.marks.items()}),
        "path": json.dumps(None if axes.path is None else axes.path.tolist()),
        "origin": _origin(objective),
    }
    header["sha256"] = _digest(header, tensors)
    path = Path(path)
    write_whole(path, safetensors.torch.save(tensors, header))
    return path


def load(path: Path | str, objective: Objective) -> Directions:
    """Read directions.

    Random ones are normalised anew to this objective's weights, so that one file serves several networks of the same
    shapes under their own scales (normalising twice changes nothing but rounding); others are used as they are, from
    the weights of another network without the marks and the path, which are not in its plane.

    Raises
    ------
    LandscapeError
        When the file does not hold directions, is of another network, or holds numbers that are not finite.
    """
    path = Path(path)
    require_regular(path)
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            given = _Header(header, path)
            # Files of older versions have no checksum.
            if "sha256" in header and header["sha256"] != _digest(header, _Tensors(file)):
                raise DamagedFile(
                    path, "is damaged (its content does not match its sha256)", "save the directions again"
                )
            vectors = [
                _vector(file, f"{index}/", objective, path, normalize=given.kind == "random")
                for index in range(_count(file.keys(), path))
            ]
    except (OSError, safetensors.SafetensorError, RuntimeError) as error:
        reason = printable(error, 100)
        raise LandscapeError(
            f"{path} is not a readable file of directions ({reason}): give one that --save-directions wrote"
        ) from None
    # Files of older versions do not say.
    if given.kind != "random" and header.get("origin", _origin(objective)) != _origin(objective):
        return Directions(torch.stack(vectors), kind=f"{given.kind} of another network", facts=given.facts())
    return Directions(
        vectors=torch.stack(vectors),
        kind=given.kind,
        facts=given.facts(),
        marks=given.marks(len(vectors)),
        path=given.path(len(vectors)),
    )


class _Tensors(Mapping[str, Tensor]):
    """The tensors of an open file, each read on first access."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getitem__(self, name: str) -> Tensor:
        return self._file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file.keys())

    def __len__(self) -> int:
        return len(self._file.keys())


def _origin(objective: Objective) -> str:
    """SHA-256 of the weights that directions start from."""
    return hashlib.sha256(objective.point.double().cpu().numpy().tobytes()).hexdigest()


def _digest(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the header's other entries and of all tensors."""
    digest = hashlib.sha256(json.dumps({**header, "sha256": ""}, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _count(names: Sequence[str], path: Path) -> int:
    """Number of directions in a file: its tensors are named ``0/...``, ``1/...`` and so on."""
    first = {name.partition("/")[0] for name in names}
    if not first or first != {str(index) for index in range(len(first))}:
        raise LandscapeError(f"{path} holds no directions 0/..., 1/...: give a file that --save-directions wrote")
    return len(first)


def _vector(file: Any, prefix: str, objective: Objective, path: Path, *, normalize: bool) -> Tensor:
    """One direction (P,) of a file, by parameter name; shapes and types are checked before anything is read."""
    tensors = []
    names = set(file.keys())
    for wanted, shape in zip(objective.space.names, objective.space.shapes, strict=True):
        name = f"{prefix}{wanted}"
        if name not in names:
            raise LandscapeError(f"{path} has no parameter {wanted}: give directions of the same network")
        stored = file.get_slice(name)
        if tuple(stored.get_shape()) != tuple(shape):
            raise LandscapeError(
                f"{wanted} of {path} has shape {tuple(stored.get_shape())}, not {tuple(shape)}: give directions of the "
                "same network"
            )
        if stored.get_dtype() not in ("F16", "BF16", "F32", "F64"):
            raise LandscapeError(f"{wanted} of {path} is {stored.get_dtype()}, not floating point: save it anew")
        tensors.append(file.get_tensor(name).double())
    flat = objective.space.flatten(tensors)
    if not bool(flat.isfinite().all()) or not bool(flat.any()):
        what = "is zero" if bool(flat.isfinite().all()) else "has values that are not finite"
        raise LandscapeError(f"direction {prefix[:-1]} of {path} {what}: save it anew")
    vector = flat.to(objective.point)
    if normalize and objective.protocol.normalization != "none":
        vector = normalized(objective, [part.double() for part in objective.space.split(vector)])
    return vector


class _Header:
    """What the header of a file of directions says, checked: it comes from a file, and is shown."""

    def __init__(self, header: Mapping[str, str], path: Path) -> None:
        self._file = path
        self._header = header
        if "kind" not in header:
            raise LandscapeError(f"{path} is not a readable file of directions: give one that --save-directions wrote")
        self.kind = printable(header["kind"], _LONGEST_NAME)

    def _json(self, name: str, default: Any) -> Any:
        text = self._header.get(name, "null")
        try:
            if len(text) > _LONGEST_HEADER:
                raise ValueError("too long")
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise self._error(name) from None
        return default if value is None else value

    def _error(self, name: str) -> LandscapeError:
        return LandscapeError(
            f"the header of {self._file} has an unreadable entry {name!r}: give a file that --save-directions wrote"
        )

    def facts(self) -> dict[str, float | str]:
        """Numbers and short texts by name."""
        entries = self._json("facts", {})
        if not isinstance(entries, dict):
            raise self._error("facts")
        facts: dict[str, float | str] = {}
        for name, value in entries.items():
            # Names become attributes of results beside those of the surface itself.
            if not _FACT.fullmatch(name) or name in ("kind", "norms") or not _is_fact(value):
                raise self._error("facts")
            facts[name] = printable(value, _LONGEST_NAME) if isinstance(value, str) else float(value)
        return facts

    def marks(self, axes: int) -> dict[str, tuple[float, ...]]:
        """Named points."""
        entries = self._json("marks", {})
        if not isinstance(entries, dict):
            raise self._error("marks")
        return {
            printable(name, _LONGEST_NAME): tuple(self._positions([position], axes, "marks")[0])
            for name, position in entries.items()
        }

    def path(self, axes: int) -> np.ndarray | None:
        """Coordinates (T, k) of a trajectory."""
        value = self._json("path", None)
        return None if value is None else np.array(self._positions(value, axes, "path"))

    def _positions(self, positions: Any, axes: int, name: str) -> list[list[float]]:
        if not isinstance(positions, list) or not positions:
            raise self._error(name)
        for position in positions:
            if (
                not isinstance(position, list)
                or len(position) != axes
                or not all(_is_number(entry) for entry in position)
            ):
                raise self._error(name)
        return [[float(entry) for entry in position] for position in positions]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < _FARTHEST


def _is_fact(value: Any) -> bool:
    # An infinite or undefined share or eigenvalue is one that was measured so.
    return isinstance(value, str) or type(value) is float or _is_number(value)
