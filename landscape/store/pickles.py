"""Pickles read as data.

A pickle is a program for a small stack machine, and unpickling runs it: the program names functions, and the unpickler
calls them. This module interprets the same instructions without ever looking a name up. Plain values come out as plain
values, tensors as descriptions of where their numbers are (`TensorRecord`), and whatever would need a function or class
as an `Opaque` that remembers its name. Nothing is imported, called or allocated, so a file can neither run code nor ask
for memory beyond its own size, and no list of allowed names has to be kept. Instructions are decoded by the standard
library's `pickletools`.
"""

import pickletools
from dataclasses import dataclass, field
from typing import Any, BinaryIO

# A checkpoint of ten thousand tensors has about half a million instructions; the limit ends in seconds what would
# otherwise take as long as the author of the file likes.
_INSTRUCTIONS = 5_000_000

_STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
    "Untyped": "uint8",
}
_DICTIONARIES = {"collections.OrderedDict", "collections.defaultdict", "collections.Counter", "builtins.dict"}
_PARAMETERS = {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}
# Modules through which a pickle would run code of its author's choice. Nothing depends on this list but a warning: no
# name is ever looked up.
_RUNNING = {
    "os", "posix", "nt", "subprocess", "sys", "importlib", "runpy", "pty", "socket", "shutil", "webbrowser", "code",
    "timeit", "pickle", "_pickle", "ctypes", "multiprocessing", "http", "urllib", "platform", "pdb", "io", "_io",
    "asyncio",
}  # fmt: skip
_RUNNING_BUILTINS = {"eval", "exec", "compile", "__import__", "getattr", "setattr", "open", "input", "breakpoint"}


class PickleError(ValueError):
    """A pickle that is damaged, or none."""


@dataclass(frozen=True)
class Global:
    """A function or class by name, not looked up."""

    name: str


@dataclass(eq=False)
class Opaque:
    """An object that only code could make.

    Attributes
    ----------
    name
        The function or class that would be called.
    network
        Whether its attributes are those of a `torch.nn.Module`.
    """

    name: str
    network: bool = False


@dataclass(frozen=True)
class Storage:
    """A block of numbers elsewhere in the file: its key, type and length in elements."""

    key: str
    dtype: str
    count: int


@dataclass(frozen=True)
class TensorRecord:
    """A tensor as a view of a `Storage`: type by name, offset and strides in elements."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass
class Interpreter:
    """Interprets pickles.

    Attributes
    ----------
    storages
        By key, all that were mentioned so far.
    running
        Names of functions mentioned that are there to run code.
    opaque
        Names of all functions and classes that would be called, but for those of plain tensors and dictionaries.
    """

    storages: dict[str, Storage] = field(default_factory=dict)
    running: list[str] = field(default_factory=list)
    opaque: list[str] = field(default_factory=list)

    def read(self, stream: BinaryIO) -> Any:
        """The value of the pickle that begins at the stream's position, which is behind it afterwards.

        Raises
        ------
        PickleError
            When it is damaged or too long.
        """
        try:
            return self._read(stream)
        except PickleError:
            raise
        except (
            ValueError,
            IndexError,
            KeyError,
            TypeError,
            AttributeError,
            OverflowError,
            EOFError,
            MemoryError,
            RecursionError,
        ) as error:
            raise PickleError(f"{type(error).__name__}: {error}") from None

    def _read(self, stream: BinaryIO) -> Any:
        machine = _Machine(self)
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count > _INSTRUCTIONS:
                raise PickleError(f"it has more than {_INSTRUCTIONS} instructions")
            if opcode.name == "STOP":
                return machine.stack.pop()
            if not machine.step(opcode.name, argument):
                raise PickleError(f"it has an instruction {opcode.name}")
        raise PickleError("it has no end")

    def named(self, module: Any, attribute: Any) -> Global:
        """A function or class that is mentioned."""
        # Older pickles have the names of Python 2.
        module = {"__builtin__": "builtins", "commands": "subprocess"}.get(str(module), module)
        name = f"{module}.{attribute}"
        top = str(module).partition(".")[0]
        builtin = top == "builtins" and str(attribute) in _RUNNING_BUILTINS
        if top in _RUNNING or builtin:
            self.running.append(name)
        return Global(name)

    def called(self, function: Any, arguments: Any) -> Any:
        """What a call stands for."""
        value = self._plain(function, arguments)
        if isinstance(value, Opaque):
            self.opaque.append(value.name)
        return value

    def _plain(self, function: Any, arguments: Any) -> Any:
        name = function.name if isinstance(function, (Global, Opaque)) else type(function).__name__
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            return Opaque(name)
        if name in _DICTIONARIES:
            contents: dict[Any, Any] = {}
            if arguments and isinstance(arguments[-1], list):
                _set_items(contents, [part for pair in arguments[-1] for part in pair])
            return contents
        if name == "torch.Size":
            return tuple(arguments[0])
        if name in _PARAMETERS:
            return arguments[0]
        if name == "torch._tensor._rebuild_from_type_v2":
            return self._plain(arguments[0], arguments[2])
        if name in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
            return _tensor(arguments[0], arguments[0].dtype, *arguments[1:4])
        if name == "torch._utils._rebuild_tensor_v3":
            return _tensor(arguments[0], arguments[6].name.removeprefix("torch."), *arguments[1:4])
        return Opaque(name)

    def built(self, value: Any, state: Any) -> None:
        """A value is given a state: the attributes of an object."""
        if isinstance(value, Opaque) and isinstance(state, dict):
            value.network = {"_parameters", "_modules"} <= state.keys()

    def stored(self, identity: Any) -> Any:
        """The storage that a persistent identity names, or an Opaque for types that are not plain numbers."""
        kind, dtype, key, _, count, *view = identity
        if kind != "storage" or (view and view[0] is not None):
            raise PickleError("it refers to something that is not a storage")
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise PickleError("it has a storage of no size")
        short = dtype.name
        for prefix in ("torch.", "cuda.", "storage."):
            short = short.removeprefix(prefix)
        short = short.removesuffix("Storage")
        if short not in _STORAGES:
            return Opaque(dtype.name)
        storage = Storage(str(key), _STORAGES[short], count)
        if self.storages.setdefault(storage.key, storage) != storage:
            raise PickleError(f"storage {storage.key} is described twice, unlike")
        return storage


class _Machine:
    """The stack machine that a pickle is a program for."""

    def __init__(self, interpreter: Interpreter) -> None:
        self.interpreter = interpreter
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> bool:
        """Carry out one instruction; whether it is known."""
        if name in _PUSHED:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        else:
            known = name in ("PROTO", "FRAME") or self._move(name, argument) or self._collect(name)
            return known or self._call(name, argument)
        return True

    def _to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def _move(self, name: str, argument: Any) -> bool:
        """Instructions that move values between stack and memo."""
        if name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            self.stack.append(self.memo[argument])
        elif name == "MARK":
            self.marks.append(self.stack)
            self.stack = []
        elif name == "POP" and self.stack:
            self.stack.pop()
        elif name in ("POP", "POP_MARK"):
            self._to_mark()
        elif name == "DUP":
            self.stack.append(self.stack[-1])
        else:
            return False
        return True

    def _collect(self, name: str) -> bool:
        """Instructions that make collections and add to them."""
        stack = self.stack
        if name in ("EMPTY_LIST", "LIST"):
            items = [] if name == "EMPTY_LIST" else self._to_mark()
            self.stack.append(items)
        elif name in ("EMPTY_DICT", "DICT"):
            items = [] if name == "EMPTY_DICT" else self._to_mark()
            self.stack.append({})
            _set_items(self.stack[-1], items)
        elif name == "TUPLE":
            items = self._to_mark()
            self.stack.append(tuple(items))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            items = [stack.pop() for _ in range(int(name[-1]))]
            stack.append(tuple(reversed(items)))
        elif name in ("EMPTY_SET", "FROZENSET"):
            if name == "FROZENSET":
                self._to_mark()
            self.stack.append(Opaque("set"))
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):
            items = [stack.pop()] if name == "APPEND" else self._to_mark()
            if isinstance(self.stack[-1], list):
                self.stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else self._to_mark()
            if isinstance(self.stack[-1], dict):
                _set_items(self.stack[-1], items)
        else:
            return False
        return True

    def _call(self, name: str, argument: Any) -> bool:
        """Instructions that name functions and classes, call them, or refer to storages."""
        stack, interpreter = self.stack, self.interpreter
        if name == "GLOBAL":
            stack.append(interpreter.named(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            stack.append(interpreter.named(stack.pop(-2), stack.pop()))
        elif name in ("REDUCE", "NEWOBJ", "NEWOBJ_EX"):
            if name == "NEWOBJ_EX":
                stack.pop()  # arguments by name
            arguments = stack.pop()
            stack.append(interpreter.called(stack.pop(), arguments))
        elif name == "INST":
            arguments = tuple(self._to_mark())
            self.stack.append(interpreter.called(interpreter.named(*argument.split(" ", 1)), arguments))
        elif name == "OBJ":
            called, *rest = self._to_mark()
            self.stack.append(interpreter.called(called, tuple(rest)))
        elif name == "BUILD":
            state = stack.pop()
            interpreter.built(stack[-1], state)
        elif name == "BINPERSID":
            stack.append(interpreter.stored(stack.pop()))
        else:
            return False
        return True


def _tensor(storage: Any, dtype: str, offset: Any, shape: Any, stride: Any) -> TensorRecord | Opaque:
    if not isinstance(storage, Storage):
        return Opaque("torch.Tensor")
    for number in (offset, *shape, *stride):
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise PickleError("a tensor's sizes are not numbers")
    if len(shape) != len(stride) or len(shape) > 32:
        raise PickleError("a tensor's sizes and strides do not fit")
    return TensorRecord(storage, dtype, offset, tuple(shape), tuple(stride))


def _set_items(target: dict[Any, Any], items: list[Any]) -> None:
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Other keys name no weights, and the hash of a deeply nested one would exhaust the stack of the interpreter.
        if key is None or isinstance(key, (str, int, float, bytes)):
            target[key] = value


_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_PUSHED = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
