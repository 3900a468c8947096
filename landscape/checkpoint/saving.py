"""Writing checkpoints: weights as safetensors, the recipe and the history in the header."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from landscape import __version__
from landscape.data.examples import content
from landscape.errors import LandscapeError
from landscape.store import files


def save(
    path: Path | str,
    state_dict: Mapping[str, torch.Tensor],
    *,
    recipe: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]] = (),
    dtype: torch.dtype | None = None,
) -> Path:
    """Write weights, recipe and history to one safetensors file, whole or not at all.

    Parameters
    ----------
    path
        The file, usually ``.safetensors``; its folder is created.
    state_dict
        Parameters and buffers by name.
    recipe, history
        JSON-ready; kept in the header (see `landscape.checkpoint.Checkpoint`).
    dtype
        Floating-point type to store, e.g. ``torch.float16`` for half the size at a relative rounding of 2^-11 per
        weight; default: as given.

    Raises
    ------
    LandscapeError
        When the folder cannot be written or the disk is full (nothing is left behind), or when a number does not fit
        `dtype`.
    """
    path = Path(path)
    tensors = {}
    for name, tensor in state_dict.items():
        stored = tensor.detach().to(dtype) if dtype is not None and tensor.is_floating_point() else tensor.detach()
        if stored.is_floating_point() and not stored.isfinite().all() and tensor.isfinite().all():
            raise LandscapeError(f"{name} of {path.name} has numbers beyond {dtype}: store it in float32")
        tensors[name] = stored.cpu().contiguous()
    metadata = {
        "format": "pt",
        "landscape_version": __version__,
        "recipe": json.dumps(dict(recipe), sort_keys=True),
        "history": json.dumps([dict(epoch) for epoch in history]),
    }
    metadata["content_sha256"] = content_sha256(tensors, metadata)
    files.write_whole(path, safetensors.torch.save(tensors, metadata))
    return path


def content_sha256(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of everything that a checkpoint says, by which a damaged one is recognised."""
    digest = hashlib.sha256()
    for part in ("recipe", "history"):
        text = metadata.get(part, "").encode("utf-8", "surrogatepass")
        digest.update(f"{part} {len(text)}\n".encode() + text)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode("utf-8", "surrogatepass"))
        digest.update(content(tensor))
    return digest.hexdigest()
