"""Networks in files: ours as safetensors with the recipe in the header, others' through a reader that runs no code."""

import argparse
import difflib
import inspect
import json
import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import nn

from landscape import __version__, nets
from landscape.errors import LandscapeError
from landscape.store import files
from landscape.store.importing import named_object

# Where others keep the weights inside their file, first match first; "ema" last, since the plain weights are what the
# other entries of such a file describe.
_ENTRIES = ("state_dict", "model_state_dict", "model", "net", "ema")
# What wrappers put before every name: DataParallel, torch.compile.
_PREFIXES = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class Checkpoint:
    """A network as loaded.

    Parameters
    ----------
    model
        The network, in eval mode, float32.
    recipe
        How it was made, JSON-ready: ``recipe`` (name), ``model`` (arguments of `nets.build`), ``data``, ``training``,
        ``seed``; None for weights that carry none.
    history
        One dictionary an epoch; empty for others' weights.
    sha256
        SHA-256 of the file.
    path
        The file.
    """

    model: nn.Module
    recipe: dict[str, Any] | None
    history: list[dict[str, Any]] = field(repr=False)
    sha256: str
    path: Path

    @property
    def name(self) -> str:
        """The file's name without folder and ending."""
        return re.sub(r"\.(safetensors|pth\.tar|pt|pth|th|ckpt|bin)$", "", self.path.name)


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
        The file, usually ``.safetensors``; its folder is made.
    state_dict
        Parameters and buffers by name.
    recipe, history
        JSON-ready; kept in the header (see `Checkpoint`).
    dtype
        Floating-point type to store, e.g. ``torch.float16`` for half the size at a relative rounding of 2^-11 a weight;
        default: as given.

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
    files.write_whole(path, safetensors.torch.save(tensors, metadata))
    return path


def load(
    path: Path | str,
    *,
    model: str | None = None,
    num_classes: int | None = None,
    device: torch.device | str = "cpu",
) -> Checkpoint:
    """Read a network.

    Files written by `save` know their network. Others (``.pt .pth .th .pth.tar .safetensors``) hold a state dict, bare
    or under ``state_dict``, ``model_state_dict``, ``model``, ``net`` or ``ema``, and need `model`; the prefixes
    ``module.`` and ``_orig_mod.`` are taken off. Files are read by ``torch.load(weights_only=True)`` alone, so that
    nothing in them is executed.

    Parameters
    ----------
    path
        The file.
    model
        A name of `nets.names`, whose width, stem and number of classes are read off the weights, or
        ``MODULE:FACTORY``, called with ``num_classes`` when it takes it and it is given.
    num_classes
        For `model`.
    device
        Where the network goes.

    Returns
    -------
    Checkpoint
        In eval mode, float32.

    Raises
    ------
    LandscapeError
        When the file is missing, damaged or would execute code, when names or shapes do not fit the network, or when a
        weight is not finite; the message names the first offender.
    """
    path = Path(path)
    if not path.is_file():
        raise LandscapeError(f"no checkpoint {path}: give an existing file or a recipe's name")
    tensors, metadata = _read(path)
    recipe, history = _header(metadata, path)
    if model is not None:
        network = _named(model, num_classes, tensors)
        recipe, history = (recipe, history) if recipe and recipe["model"]["name"] == model else (None, [])
    elif recipe is not None:
        network = nets.build(**recipe["model"])
    else:
        raise LandscapeError(
            f"{path} does not say which network it is: give --model NAME (e.g. resnet_dnn_18) or --model MODULE:FACTORY"
        )
    _fill(network, tensors, path)
    return Checkpoint(
        model=network.float().eval().to(device), recipe=recipe, history=history, sha256=files.sha256(path), path=path
    )


def read_recipe(path: Path | str) -> dict[str, Any] | None:
    """The recipe in the header of a file written by `save`, without reading the weights; None where there is none."""
    return _read_header(Path(path))[0]


def read_history(path: Path | str) -> list[dict[str, Any]]:
    """The history in the header of a file written by `save`, without reading the weights; empty where there is none."""
    return _read_header(Path(path))[1]


def _read_header(path: Path) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return _header(file.metadata() or {}, path)
    except (safetensors.SafetensorError, OSError, LandscapeError):
        return None, []


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """State dict and header of a file of any kind."""
    if path.suffix == ".safetensors":
        try:
            with safetensors.safe_open(str(path), framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
        except (safetensors.SafetensorError, OSError) as error:
            raise LandscapeError(f"{path} is no whole safetensors file ({_one_line(error)}): copy it again") from None
    # Options and scores beside the weights: plain values that run nothing.
    scalar = np.float64(0).__reduce__()[0]
    plain: list[Any] = [argparse.Namespace, scalar, np.dtype, *{type(np.dtype(kind)) for kind in "fdil?"}]
    try:
        with torch.serialization.safe_globals(plain), warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found is None:
            raise LandscapeError(f"{path} is no whole checkpoint: copy it again or train it anew") from None
        raise LandscapeError(
            f"{path} holds more than weights ({found[1]}) and could run code, so it is not loaded: "
            "save model.state_dict() instead"
        ) from None
    except Exception as error:  # a damaged file can raise nearly anything
        raise LandscapeError(f"{path} is no whole checkpoint ({_one_line(error)}): copy it again") from None
    return _state_dict(content, path), {}


def _state_dict(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """The state dict in what a foreign file holds."""
    if isinstance(content, Mapping):
        for candidate in (content, *(content[name] for name in _ENTRIES if name in content)):
            if isinstance(candidate, Mapping) and candidate:
                tensors = {str(name): value for name, value in candidate.items() if isinstance(value, torch.Tensor)}
                if len(tensors) == len(candidate):
                    return tensors
    kind = type(content).__name__
    found = f" with entries {', '.join(map(str, list(content)[:6]))}" if isinstance(content, Mapping) else ""
    raise LandscapeError(
        f"{path} holds no state dict but a {kind}{found}: save model.state_dict(), bare or under 'state_dict'"
    )


def _header(metadata: Mapping[str, str], path: Path) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    if "recipe" not in metadata:
        return None, []
    try:
        recipe, history = json.loads(metadata["recipe"]), json.loads(metadata.get("history", "[]"))
        if not isinstance(recipe["model"]["name"], str):
            raise TypeError("no model name")
    except (ValueError, TypeError, KeyError) as error:
        raise LandscapeError(f"{path} has a damaged recipe in its header ({_one_line(error)}): train it anew") from None
    return recipe, history


def _named(model: str, num_classes: int | None, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """The network that a user names, untrained."""
    if ":" in model:
        factory = named_object(model)
        if not callable(factory):
            raise LandscapeError(f"{model} is a {type(factory).__name__}, not a factory: name a function or class")
        arguments = {"num_classes": num_classes} if num_classes is not None and _takes(factory, "num_classes") else {}
        try:
            # Initial weights are drawn from the global generator, which is the user's: put it back.
            with torch.random.fork_rng():
                made = factory(**arguments)
        except Exception as error:
            raise LandscapeError(
                f"{model} failed to build a network: {type(error).__name__}: {_one_line(error)}"
            ) from error
        if not isinstance(made, nn.Module):
            raise LandscapeError(f"{model} returned a {type(made).__name__}: return a torch.nn.Module")
        return made
    first = next((value for value in tensors.values() if value.ndim == 4), None)
    last = next((value for value in reversed(list(tensors.values())) if value.ndim == 2), None)
    if first is None or last is None:
        raise LandscapeError(f"these weights have no convolution or no dense layer, so they are not those of {model}")
    # Every family of ours starts with `width` channels, behind a kernel larger than 3 only in the ImageNet stem.
    return nets.build(model, num_classes=num_classes or len(last), stem=first.shape[-1] > 3, width=len(first))


def _takes(factory: Any, parameter: str) -> bool:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:  # builtins without a signature
        return False
    return any(each.name == parameter or each.kind is each.VAR_KEYWORD for each in parameters)


def _fill(network: nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Put the weights into the network, every one in its place."""
    expected = network.state_dict()
    # A network may itself have a part called "module": what fits as it is, stays as it is.
    given = min((tensors, _without_prefixes(tensors)), key=lambda names: len(names.keys() ^ expected.keys()))
    missing = [name for name in expected if name not in given]
    unexpected = [name for name in given if name not in expected]
    if missing:
        near = difflib.get_close_matches(missing[0], unexpected, n=1)
        hint = f" (it has {near[0]} instead)" if near else ""
        raise LandscapeError(
            f"{path} has no {missing[0]}{hint}; {len(missing)} of {len(expected)} tensors of the network are missing: "
            "name the network that these weights belong to with --model"
        )
    if unexpected:
        raise LandscapeError(
            f"{path} has {unexpected[0]}, which the network lacks ({len(unexpected)} such tensors): "
            "name the network that these weights belong to with --model"
        )
    for name, tensor in given.items():
        if tensor.shape != expected[name].shape:
            raise LandscapeError(
                f"{name} of {path} has shape {tuple(tensor.shape)}, the network's has {tuple(expected[name].shape)}: "
                "check --model and --num-classes"
            )
        if tensor.is_floating_point() and not tensor.isfinite().all():
            count = int((~tensor.isfinite()).sum())
            raise LandscapeError(
                f"{name} of {path} has {count} non-finite of {tensor.numel()} numbers: "
                "the training diverged; use an earlier checkpoint"
            )
    network.load_state_dict(given)


def _without_prefixes(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    stripped = {}
    for name, tensor in tensors.items():
        while name.startswith(_PREFIXES):
            name = name.split(".", 1)[1]
        stripped[name.replace("._orig_mod.", ".")] = tensor
    stripped.pop("n_averaged", None)  # torch.optim.swa_utils.AveragedModel's counter
    return stripped


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
