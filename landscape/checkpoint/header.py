"""The header of a checkpoint of ours: data from a file, and checked as such.

A header may come from anybody. It names networks, smoothing layers, heads and data sets out of closed lists, and
numbers within bounds; whatever else it says is refused before anything is built. A layer of the user's own is found
only through the registry that the user's machine has written (`landscape.store.registry`).
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from landscape import nets
from landscape.errors import LandscapeError, printable
from landscape.nets import smoothing as smoothing_layers
from landscape.store import registry

# Far beyond any network of the paper (2,048 channels, 1,000 classes, one smoothing layer a stage), and small enough
# that a network of these sizes can be described. What it may really have is bounded by the weights in the file.
_WIDEST = 16_384
_CLASSES = 1_000_000
_LAYERS = 64
_LONGEST_TEXT = 2**24
_DEEPEST = 16

Fields = dict[str, Callable[[Any], bool]]


def _whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and low <= value <= high
    )


def _short(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 4096


def _absent_or(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


# Arguments of `nets.build`, each with what it may be.
_MODEL: Fields = {
    "name": lambda value: isinstance(value, str) and value in nets.names(),
    "num_classes": _whole(1, _CLASSES),
    "width": _whole(1, _WIDEST),
    "stem": lambda value: isinstance(value, bool),
    "dropout": _absent_or(lambda value: _number(0, 1)(value) and value < 1),
    "smoothing": _absent_or(_short),
    "head": _absent_or(lambda value: isinstance(value, str) and value in nets.HEADS),
    "stages": _absent_or(
        lambda value: isinstance(value, list) and len(value) <= 8 and all(_whole(0, _LAYERS)(each) for each in value)
    ),
}
_TRAINING: Fields = {
    "weight_decay": _number(0, 1000),
    "epochs": _whole(0, 10**6),
    "stop_after": _absent_or(_whole(0, 10**6)),
    "schedule": lambda value: isinstance(value, dict) and _whole(0, 10**6)(value.get("warmup_epochs", 0)),
}
_DATA: Fields = {"name": _short}
_TOP: Fields = {"recipe": _short, "seed": _whole(0, 2**63), "revision": _whole(1, 1000)}


def parse(metadata: Mapping[str, str], path: Path) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Recipe and history of a header, checked field by field; None and empty where there is none.

    Raises
    ------
    LandscapeError
        When a field is of the wrong type, unknown or out of bounds; the message names it.
    """
    if "recipe" not in metadata:
        return None, []
    recipe = _parsed(metadata["recipe"], "recipe", path)
    history = _parsed(metadata.get("history", "[]"), "history", path)
    if not isinstance(recipe, dict) or not isinstance(recipe.get("model"), dict):
        raise _damaged(path, "recipe", "it names no model")
    _check(recipe, _TOP, "recipe", path)
    for name in ("name", "num_classes"):
        if name not in recipe["model"]:
            raise _damaged(path, "recipe", f"its model has no {name}")
    _check(recipe["model"], _MODEL, "model", path, closed=True)
    for part, fields in (("training", _TRAINING), ("data", _DATA), ("run", {}), ("sources", {})):
        if not isinstance(recipe.get(part, {}), dict):
            raise _damaged(path, part, f"it is {_shown(recipe[part])}")
        _check(recipe.get(part, {}), fields, part, path)
    if not isinstance(history, list) or not all(isinstance(epoch, dict) for epoch in history):
        raise _damaged(path, "history", "it is not a list of epochs")
    for epoch in history:
        for name, value in epoch.items():
            if not isinstance(value, (int, float)):
                raise _damaged(path, "history", f"{printable(name, 40)} is {_shown(value)}")
    return recipe, history


def smoothing_of(recipe: Mapping[str, Any], given: str | None, path: Path) -> smoothing_layers.Smoothing:
    """The smoothing layer of a recipe: a name of ours, or a class of the user's own that the user vouches for.

    Parameters
    ----------
    recipe
        A checked header.
    given
        What the user names in its place, ``FILE.py:CLASS``; None when nothing is given.

    Raises
    ------
    LandscapeError
        When the header names code that neither the user nor the user's registry vouches for.
    """
    if given is not None:
        return given
    named = recipe["model"].get("smoothing")
    if named is None or ":" not in named:
        return named
    factory = registry.recall(named, recipe.get("sources", {}).get(named))
    if factory is None:
        shown = printable(named, 100)
        raise LandscapeError(
            f"{path} was trained with the layer {shown!r}, and a file may not name code to run: "
            f"if that layer is yours, add --smoothing {shown}"
        )
    return factory


def _parsed(text: str, what: str, path: Path) -> Any:
    if len(text) > _LONGEST_TEXT:
        raise _damaged(path, what, f"it has {len(text)} characters")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, what, error) from None
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            part
            for each in level
            if isinstance(each, (dict, list))
            for part in (each.values() if isinstance(each, dict) else each)
        ]
    if level:
        raise _damaged(path, what, f"it is nested more than {_DEEPEST} deep")
    return value


def _check(given: Mapping[str, Any], fields: Fields, what: str, path: Path, *, closed: bool = False) -> None:
    for name, value in given.items():
        if name in fields:
            if not fields[name](value):
                raise _damaged(path, what, f"{name} is {_shown(value)}")
        elif closed:
            raise _damaged(path, what, f"there is no argument {printable(name, 40)}")


def _shown(value: Any) -> str:
    return printable(repr(value) if isinstance(value, (str, int, float, bool)) else type(value).__name__, 80)


def _damaged(path: Path, what: str, error: object) -> LandscapeError:
    reason = printable(" ".join(str(error).split()), 200)
    where = "recipe" if what == "recipe" else f"recipe's {what}"
    return LandscapeError(f"{path} has a damaged {where} in its header ({reason}): train it anew")
