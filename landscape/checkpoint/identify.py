"""Which of our networks weights belong to, by names and shapes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from landscape import nets
from landscape.checkpoint.content import StateDict
from landscape.checkpoint.matching import best
from landscape.errors import LandscapeError
from landscape.nets.families import FAMILIES, ResidualSize, depths_of
from landscape.nets.residual import PreBottleneck

_KINDS = ("dnn", "mcdo", "dnn_smoothing", "mcdo_smoothing")
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Identity:
    """A network of ours that weights fit, or fit best.

    Attributes
    ----------
    arguments
        Of `nets.build`.
    whole
        Whether every tensor fits.
    kinds
        Names of all networks whose weights have these names and shapes: dropout and smoothing have none of their own.
    """

    arguments: dict[str, Any]
    whole: bool
    kinds: tuple[str, ...]

    def __str__(self) -> str:
        given = self.arguments
        more = f", head {given['head']}" if "head" in given else ""
        more += ", with the ImageNet stem" if given["stem"] else ""
        return f"{given['name']}, width {given['width']}, {given['num_classes']} classes{more}"


def arguments_for(name: str, state: StateDict, num_classes: int | None = None) -> dict[str, Any]:
    """Arguments of `nets.build` for a network of that name with these weights: width, stem, classes and head.

    Raises
    ------
    LandscapeError
        For an unknown name, or weights without a convolution or a dense layer.
    """
    nets.require_known(name)
    shapes = state.shapes
    first = next((shape for shape in shapes.values() if len(shape) == 4), None)
    last = next((shape for shape in reversed(list(shapes.values())) if len(shape) == 2), None)
    if first is None or last is None:
        raise LandscapeError(f"these weights have no convolution or no dense layer, so they are not those of {name}")
    # Every family of ours starts with `width` channels, behind a kernel larger than 3 only in the ImageNet stem.
    arguments = {"name": name, "num_classes": num_classes or last[0], "stem": first[-1] > 3, "width": first[0]}
    head = _head(shapes)
    if head is not None and head != FAMILIES[name.partition("_")[0]].head:
        arguments["head"] = head
    return arguments


def identify(state: StateDict) -> Identity | None:
    """The network of ours that weights belong to; None when they resemble none."""
    candidates: list[tuple[int, Identity]] = []
    for name, kinds in _candidates(state):
        arguments = arguments_for(name, state)
        try:
            expected = shapes_of(arguments)
        except LandscapeError:
            continue
        match = best([state], expected)
        counted = [each for each in expected if not each.endswith("num_batches_tracked")]
        whole = match.fitting == len(match.names) and all(each in match.names for each in counted)
        if match.fitting * 2 >= len(expected):
            candidates.append((match.fitting - len(match.unused), Identity(arguments, whole, kinds)))
    return max(candidates, key=lambda each: each[0])[1] if candidates else None


def shapes_of(arguments: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of the state dict of a network of ours, by name; nothing is allocated."""
    # On the meta device a network has shapes and no memory.
    with torch.device("meta"):
        network = nets.build(**arguments)
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _candidates(state: StateDict) -> list[tuple[str, tuple[str, ...]]]:
    """Networks with as many blocks in each stage, each with all kinds whose weights have the same names and shapes."""
    blocks = [re.search(r"(?:^|\.)layer(\d)\.(\d+)\.(?:conv|bn|shortcut)", name) for name in state.shapes]
    numbers = {(int(each[1]), int(each[2])) for each in blocks if each is not None}
    if not numbers or not any(len(shape) == 2 for shape in state.shapes.values()):
        return []
    counts = tuple(
        sum(stage == other for other, _ in numbers) for stage in range(max(stage for stage, _ in numbers) + 1)
    )
    orders = []
    for family, facts in FAMILIES.items():
        for size, value in facts.sizes.items():
            depths = depths_of(value)
            # Residual networks count their stages from 1.
            if counts == ((0, *depths) if isinstance(value, ResidualSize) else depths):
                kinds = tuple("_".join(part for part in (family, kind, size) if part) for kind in _KINDS)
                apart = isinstance(value, ResidualSize) and value.block is PreBottleneck
                orders += [(each[0], each) for each in ((kinds[::2], kinds[1::2]) if apart else (kinds,))]
    return orders


def _head(shapes: Shapes) -> str | None:
    """The head whose names these are; those without names of their own (pooling) count as the plain one."""
    layers = {match[1]: match[2] for name in shapes if (match := re.search(r"classifier\.(\d)\.(\w+)\.", name))}
    parts = {match[1] for name in shapes if (match := re.search(r"classifier\.\d\.(\w+)\.", name))}
    if "dense3" in parts:
        return "gap-mlp" if "0" in layers else "mlp"
    if "bn" in parts:
        return "bn-relu-gap"
    return "gap" if "dense" in parts else None
