"""A device of its own over the CPU's memory, as strict as a GPU: for tests of device code where there is no GPU.

Tensors on it hold a CPU tensor and report the device ``pseudo``. Operations between them and CPU tensors of one or more
dimensions fail as they do with CUDA, random numbers take a generator of the device, and everything that makes a host
wait for a GPU is counted by the line of the project's code that asked for it. Numbers are those of the CPU, to the bit.

What it cannot show: forward-mode differentiation, autocast, and cuDNN itself.
"""

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

ROOT = Path(__file__).parents[1]
NAME = "pseudo"
# Reads of a single number, tensors whose size depends on numbers, comparisons that return a bool.
WAITS = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten._unique2.default,
}
BY_MASK = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default}
COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class PseudoTensor(torch.Tensor):
    """A tensor on the pseudo device; `held` is the CPU tensor with its numbers."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "PseudoTensor":
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME, 0),
            requires_grad=False,
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __getitem__(self, index: Any) -> Any:
        """Elements."""
        return super().__getitem__(seen(index))

    def new_tensor(self, numbers: Any, **keywords: Any) -> torch.Tensor:  # type: ignore[override]
        """A tensor of numbers, of this type unless another is given."""
        return torch.tensor(numbers, **{"dtype": self.dtype, **keywords}).to(self.device)

    def __setitem__(self, index: Any, value: Any) -> None:
        """Put elements."""
        super().__setitem__(seen(index), value)

    def tolist(self) -> Any:
        """Its numbers: waits for them."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        return dispatch(operation, arguments, keywords or {}, None)


class PseudoGenerator(torch.Generator):
    """A generator of the pseudo device: torch makes none for a device written in Python. In truth one of the CPU."""

    # What torch hands to an operation is another object for the same generator. Kept, since an address is given again.
    made: ClassVar[dict[int, torch.Generator]] = {}

    def __init__(self) -> None:
        self.made[self._cdata] = self

    @property
    def device(self) -> torch.device:
        """The pseudo device."""
        return torch.device(NAME, 0)


class Generator(torch.Generator):
    """In the place of ``torch.Generator``, which makes generators of the pseudo device, too."""

    def __new__(cls, device: Any = "cpu") -> torch.Generator:  # type: ignore[misc]
        """A generator of a device."""
        return PseudoGenerator() if is_pseudo(device) else _GENERATOR(device=device)


_GENERATOR = torch.Generator


def seen(index: Any) -> Any:
    """An index whose lists of numbers are tensors: those torch puts on the device itself, unseen by `_Mode`."""
    parts = index if isinstance(index, tuple) else (index,)
    return tuple(torch.tensor(part) if isinstance(part, list) else part for part in parts)


def is_pseudo(device: Any) -> bool:
    """Whether something names the pseudo device."""
    return device is not None and torch.device(device).type == NAME


def dispatch(operation: Any, arguments: Any, keywords: dict[str, Any], waits: Counter[str] | None) -> Any:
    """One operation, computed on what pseudo tensors hold."""
    flat = tree_leaves((arguments, keywords))
    inside = [each for each in flat if isinstance(each, PseudoTensor)]
    outside = [each for each in flat if isinstance(each, torch.Tensor) and not isinstance(each, PseudoTensor)]
    device = keywords.get("device")
    to_pseudo = is_pseudo(device) or (bool(inside) and device is None)
    if not inside and not to_pseudo:
        return operation(*arguments, **keywords)
    copies = operation in COPIES
    # Indices on the CPU are taken, and copied, by CUDA, too.
    mixes = [each for each in outside if each.dim() > 0]
    if inside and mixes and not copies and operation not in BY_MASK:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but {operation} was given {NAME} and cpu tensors"
        )
    given = keywords.get("generator")
    if given is not None and to_pseudo and given._cdata not in PseudoGenerator.made:
        raise RuntimeError(f"Expected a '{NAME}' device type for generator but found 'cpu'")
    if waits is not None:
        leaves = bool(inside) and device is not None and not is_pseudo(device)
        crosses = operation in COPIES and ((bool(inside) and bool(mixes)) or leaves or (not inside and bool(mixes)))
        masked = operation in BY_MASK and any(
            isinstance(each, torch.Tensor) and each.dtype in (torch.bool, torch.uint8)
            for each in tree_leaves(arguments[1])
        )
        if operation in WAITS or crosses or masked:
            waits[origin(operation)] += 1
    held = tree_map_only(PseudoTensor, inner, (arguments, keywords))
    keywords_held = {name: torch.device("cpu") if name == "device" else each for name, each in held[1].items()}
    if device is None or is_pseudo(device):
        keywords_held.pop("pin_memory", None)
    result = operation(*held[0], **keywords_held)
    if operation is torch.ops.aten._local_scalar_dense.default or not to_pseudo:
        return result
    wrapped = tree_map(lambda each: PseudoTensor(each) if type(each) is torch.Tensor else each, result)
    return return_and_correct_aliasing(operation, arguments, keywords, wrapped) if inside else wrapped


def inner(tensor: PseudoTensor) -> torch.Tensor:
    """What a pseudo tensor holds."""
    assert tensor.shape == tensor.held.shape
    assert tensor.stride() == tensor.held.stride(), "another layout inside"
    return tensor.held


def origin(operation: Any) -> str:
    """File and line of the project's code that an operation was called from."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(ROOT / "landscape") and frame.name not in ("__torch_function__", "measured"):
            return f"{path.relative_to(ROOT)}:{frame.lineno} ({operation.__name__})"
    return f"elsewhere ({operation.__name__})"


class _Mode(TorchDispatchMode):
    """Operations that make pseudo tensors out of nothing, or out of CPU tensors, and the count of waits."""

    def __init__(self, waits: Counter[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        return dispatch(operation, arguments, keywords or {}, self.waits)


class _Made(TorchFunctionMode):
    """``torch.tensor`` of numbers on the pseudo device: made on the CPU and copied, as torch does unseen by `_Mode`."""

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        if function in (torch.tensor, torch.as_tensor, torch.asarray) and is_pseudo(keywords.get("device")):
            device = keywords.pop("device")
            return function(*arguments, **keywords).to(device)
        return function(*arguments, **keywords)


class _Backend(_DummyBackendModule):
    """What torch asks of a device."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """Types of autocast."""
        return [torch.bfloat16]


_registered = False


def register() -> None:
    """Give torch a device called ``pseudo``; once per process, and for good."""
    global _registered
    if not _registered:
        _setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
        _registered = True


@contextmanager
def pseudo_device() -> Iterator[tuple[torch.device, Counter[str]]]:
    """The device, and the waits so far, by line."""
    register()
    waits: Counter[str] = Counter()
    # Assigning `.data`, as `Module.to` does otherwise, would leave what a pseudo tensor holds behind.
    with (
        mock.patch("torch.__future__._swap_module_params_on_conversion", True),
        mock.patch("torch.Generator", Generator),
        _Made(),
        _Mode(waits),
    ):
        yield torch.device(NAME, 0), waits
