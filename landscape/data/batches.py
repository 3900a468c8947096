"""The CIFAR python archives' pickled batches, read as data (`landscape.store.pickles`): nothing in them runs."""

import io
from typing import Any

import numpy as np

from landscape.errors import LandscapeError, printable
from landscape.store.pickles import Global, Interpreter, Opaque, PickleError

# numpy moved its core in version 2.
_RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")


class _Array(Opaque):
    """An array of a pickle, which `pixels` reads."""

    state: Any = None

    def pixels(self, width: int) -> np.ndarray | None:
        """The array (N, width) of uint8, or None when it is something else."""
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            return None
        _, shape, dtype, is_fortran, content = self.state
        # Python 2 wrote bytes as text.
        content = content.encode("latin1", "ignore") if isinstance(content, str) else content
        if not isinstance(dtype, Opaque) or dtype.name not in ("u1", "|u1") or not isinstance(content, bytes):
            return None
        if not isinstance(shape, tuple) or len(shape) != 2 or shape[1:] != (width,) or type(shape[0]) is not int:
            return None
        if shape[0] < 0 or len(content) != shape[0] * width:
            return None
        flat = np.frombuffer(content, dtype=np.uint8)
        return flat.reshape(width, shape[0]).T if is_fortran else flat.reshape(shape)


class _BatchInterpreter(Interpreter):
    """Interprets pickles of dictionaries, lists, numbers, text and arrays, and refuses all others."""

    def called(self, function: Any, arguments: Any) -> Any:
        """An array, its type, or bytes, which Python 3 writes as calls in protocols below 3."""
        name = function.name if isinstance(function, Global) else type(function).__name__
        if name in _RECONSTRUCT:
            return _Array("numpy.ndarray")
        if name == "numpy.dtype":
            code = arguments[0]
            return Opaque(code.decode("latin1") if isinstance(code, bytes) else str(code))
        if name == "_codecs.encode" and arguments[1:] in ((), ("latin1",)):
            return arguments[0].encode("latin1")
        raise PickleError(f"it asks for {name}, which image archives do not hold")

    def built(self, value: Any, state: Any) -> None:
        """The shape, type and content of an array."""
        if isinstance(value, _Array):
            value.state = state


def read_batch(content: bytes, where: str, *, label_key: str, classes: int, width: int) -> tuple[np.ndarray, list[int]]:
    """Pixels (N, width) of uint8 and labels of a pickled dictionary with ``data`` and `label_key`.

    Raises
    ------
    LandscapeError
        When it is not such a dictionary, whatever the reason.
    """
    try:
        loaded = _BatchInterpreter().read(io.BytesIO(content))
    except PickleError as error:
        reason = printable(error, 200)
        raise LandscapeError(f"{where} is not a CIFAR python batch ({reason}): download it again") from None
    entries = loaded if isinstance(loaded, dict) else {}
    array, labels = (entries.get(key.encode(), entries.get(key)) for key in ("data", label_key))
    pixels = array.pixels(width) if isinstance(array, _Array) else None
    if pixels is None:
        raise LandscapeError(f"{where} has no 'data' of uint8 (N, {width}): it is not a CIFAR python batch")
    if not isinstance(labels, list) or len(labels) != len(pixels):
        raise LandscapeError(f"{where} has no list of {len(pixels)} labels under {label_key!r}")
    for number, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < classes:
            shown = printable(repr(label) if isinstance(label, (int, float, str, bytes)) else type(label).__name__, 40)
            raise LandscapeError(
                f"{where}: label {shown} of image {number} is out of range: labels must lie in 0..{classes - 1}"
            )
    return pixels, labels
