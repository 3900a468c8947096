"""Examples from a user's own code: a factory that is named on the command line."""

import inspect
from typing import Any

from landscape.data.reading import Data, as_examples
from landscape.errors import LandscapeError
from landscape.store.importing import named_object


def load_factory(specification: str, split: str) -> Data:
    """What ``MODULE:FACTORY`` returns, read by `as_examples`.

    The factory is called with ``split=...`` when it has such a parameter, and without arguments otherwise. Pictures are
    (channels, height, width), uint8 or floating point; PIL pictures are read as they are.

    Raises
    ------
    LandscapeError
        When the factory cannot be called, or returns something else.
    """
    factory = named_object(specification)
    if not callable(factory):
        raise LandscapeError(f"{specification} is a {type(factory).__name__}, not a factory: name a function or class")
    try:
        has_split = "split" in _parameters(factory)
        result = factory(split=split) if has_split else factory()
        return as_examples(result, name=specification, split=split if has_split else "")
    except LandscapeError:
        raise
    except Exception as error:
        raise LandscapeError(
            f"{specification} gave no examples ({type(error).__name__}: {' '.join(str(error).split())[:200]}): "
            "return a Dataset, or tensors (inputs, targets)"
        ) from error


def _parameters(factory: Any) -> set[str]:
    try:
        return set(inspect.signature(factory).parameters)
    except ValueError:  # builtins without a signature
        return set()
