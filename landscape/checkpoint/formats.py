"""Reads files and folders of any origin; what they hold comes out as `Content`, and nothing in them is run."""

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors
import torch

from landscape.checkpoint.content import Content, StateDict, damaged, require_type
from landscape.checkpoint.torch_files import read_archive, read_legacy
from landscape.errors import LandscapeError
from landscape.store import files

_LONGEST_JSON = 2**26
# The files of a folder that save_pretrained, save_model or save_state wrote, best first.
_FOLDER_FILES = ("model.safetensors", "pytorch_model.bin", "diffusion_pytorch_model.safetensors")


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
    try:
        content = _file(path)
        content.sha256 = files.sha256(path)
    except OSError as error:
        raise LandscapeError(f"cannot read {path}: {error.strerror or error}") from None
    return content


def _file(path: Path) -> Content:
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(16)
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return _safetensors(path, size)
    if start[:4] == b"PK\x03\x04":
        return read_archive(path, size)
    if start[:4] == b"\x89HDF":
        raise LandscapeError(f"{path} is an HDF5 file, not PyTorch's: save model.state_dict() with torch.save")
    return read_legacy(path, size)


def _safetensors(path: Path, size: int) -> Content:
    try:
        # Checks that all tensors lie inside the file and that none overlap.
        with safetensors.safe_open(str(path), framework="pt") as file:
            metadata = dict(file.metadata() or {})
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # the library raises its own, and OSError, ValueError and OverflowError besides
        raise damaged(path, "safetensors file", error) from None

    def tensor(name: str) -> torch.Tensor:
        try:
            with safetensors.safe_open(str(path), framework="pt") as file:
                tensor = file.get_tensor(name)
        except Exception as error:
            raise damaged(path, "safetensors file", error) from None
        require_type(tensor.dtype, name, path)
        return tensor

    return Content(path, [StateDict("", shapes, {}, {name: name for name in shapes}, tensor)], metadata)


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
            raise LandscapeError(f"{path} has {min(twice)} in two files: not a complete checkpoint; copy it again")
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
        if path.stat().st_size > _LONGEST_JSON:
            raise ValueError("it is too long")
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, "JSON file", error) from None
    if not isinstance(parsed, dict):
        raise damaged(path, "JSON file", f"it is a {type(parsed).__name__}")
    return parsed
