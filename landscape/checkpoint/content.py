"""What a file holds, whatever wrote it: collections of tensors by name, and the names of everything else."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from landscape.errors import LandscapeError, printable

ENDINGS = re.compile(r"\.(safetensors|pth\.tar|pt|pth|th|ckpt|bin|pkl|tar)$")
_STORED = {"float64", "float32", "float16", "bfloat16", "bool", "uint8", "int8", "int16", "int32", "int64"}
_STORED |= {"complex64", "complex128"}


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


def damaged(path: Path, what: str, error: object) -> LandscapeError:
    """What to say of a file that is not as it was written."""
    return LandscapeError(f"{path} is not a complete {what} ({printable(one_line(error), 200)}): copy it again")


def require_type(dtype: Any, name: str, path: Path) -> None:
    """Raise LandscapeError for a type that weights of a network are not stored in for use, such as float8."""
    short = str(dtype).removeprefix("torch.")
    if not isinstance(dtype, torch.dtype) or short not in _STORED:
        wanted = "complex64" if short.startswith("complex") else "float32"
        raise LandscapeError(f"{name} of {path} is stored as {short}: convert the weights to {wanted} first")


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


def one_line(error: object) -> str:
    """The message of an error, its white space squeezed."""
    return " ".join(str(error).split())[:200]
