"""The CIFAR python archives' pickled batches, read without letting the pickle construct anything of NumPy's."""

import io
import pickle
import pickletools
from typing import Any, ClassVar

import numpy as np

from landscape.errors import LandscapeError, printable

# What pickle wrote in the published files and in copies of them by Python 3, protocols 0 to 4: numbers, text, lists,
# tuples, dictionaries, references to them, and calls of the few names below. Nothing that takes memory by its argument
# (BYTEARRAY8), makes classes (INST, OBJ, NEWOBJ), or asks the reader for objects (PERSID, EXT1, NEXT_BUFFER).
_OPCODES = frozenset(
    """
    APPEND APPENDS BINBYTES BINBYTES8 BINFLOAT BINGET BININT BININT1 BININT2 BINPUT BINSTRING BINUNICODE BINUNICODE8
    BUILD DICT EMPTY_DICT EMPTY_LIST EMPTY_TUPLE FLOAT FRAME GET GLOBAL INT LIST LONG LONG1 LONG4 LONG_BINGET
    LONG_BINPUT MARK MEMOIZE NEWFALSE NEWTRUE NONE PROTO PUT REDUCE SETITEM SETITEMS SHORT_BINBYTES SHORT_BINSTRING
    SHORT_BINUNICODE STACK_GLOBAL STOP STRING TUPLE TUPLE1 TUPLE2 TUPLE3 UNICODE
    """.split()  # noqa: SIM905  a list of them would be as many lines
)
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})


class _Dtype:
    """What a pickle says of an array's type."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code.decode("ascii", "replace") if isinstance(code, bytes) else code

    def __setstate__(self, state: Any) -> None:
        """Byte order and so on: bytes have none."""


class _Array:
    """What a pickle says of an array; turned into one by `pixels`."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def pixels(self, width: int) -> np.ndarray | None:
        """The array (N, width) of uint8, or None when it is something else."""
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            return None
        _, shape, dtype, is_fortran, content = self.state
        if not isinstance(dtype, _Dtype) or dtype.code not in ("u1", "|u1") or not isinstance(content, bytes):
            return None
        if not isinstance(shape, tuple) or len(shape) != 2 or shape[1:] != (width,) or type(shape[0]) is not int:
            return None
        if shape[0] < 0 or len(content) != shape[0] * width:
            return None
        flat = np.frombuffer(content, dtype=np.uint8)
        return flat.reshape(width, shape[0]).T if is_fortran else flat.reshape(shape)


def _latin1(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError("only latin1 text is decoded")
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    """Reads dictionaries, lists, numbers and text; an array becomes an `_Array`, and nothing else can be named."""

    # numpy moved its core in version 2; Python 3 writes byte strings of protocol 2 through _codecs.encode.
    _ADMITTED: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _latin1,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which image archives do not hold")
        return self._ADMITTED[module, name]


def _require_harmless(content: bytes) -> None:
    """Check the operations of a pickle before they run: pickle's table of references grows to any number it reads."""
    puts = 0
    for operation, argument, _ in pickletools.genops(io.BytesIO(content)):
        if operation.name not in _OPCODES:
            raise pickle.UnpicklingError(f"it uses {operation.name}, which image archives do not")
        if operation.name in _PUTS:
            if not isinstance(argument, int) or argument > 2 * puts + 1000:
                raise pickle.UnpicklingError(f"it refers to object {argument} after {puts}")
            puts += 1


def read_batch(content: bytes, where: str, *, label_key: str, classes: int, width: int) -> tuple[np.ndarray, list[int]]:
    """Pixels (N, width) of uint8 and labels of a pickled dictionary with ``data`` and `label_key`.

    Raises
    ------
    LandscapeError
        When it is not such a dictionary, whatever the reason.
    """
    try:
        _require_harmless(content)
        loaded = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        reason = printable(error, 200) or type(error).__name__
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
