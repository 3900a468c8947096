"""Which channels of a network may be permuted without changing what it computes: read off one forward pass."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from landscape.connectivity import axes
from landscape.connectivity.axes import Label, fixed, fresh
from landscape.connectivity.rules import Rules, dims_of
from landscape.connectivity.shapes import Stacked


def _words(text: str) -> set[str]:
    return set(text.split())


# Work on each element alone, with broadcasting.
_ELEMENTWISE = _words(
    """add sub mul div true_divide rsub radd rmul rtruediv truediv floordiv pow rpow square sqrt rsqrt exp expm1 log
    log1p sin cos abs neg sign reciprocal erf relu relu6 leaky_relu elu selu celu gelu silu mish sigmoid logsigmoid tanh
    hardtanh hardswish hardsigmoid hardshrink softshrink softplus softsign threshold clamp clip clamp_min clamp_max
    maximum minimum where lerp addcmul addcdiv masked_fill dropout alpha_dropout dropout1d dropout2d dropout3d
    feature_dropout eq ne lt le gt ge isnan isfinite logical_not logical_and logical_or nan_to_num round floor ceil
    fill"""
)
# Hand on their first argument.
_SAME = _words(
    "clone contiguous to float double half bfloat16 type type_as detach requires_grad data identity cpu cuda"
)
# Symmetric in the entries that they normalise over.
_SYMMETRIC = {"softmax", "log_softmax", "softmin", "normalize", "cosine_similarity"}
_REDUCTIONS = _words("mean sum amax amin max min norm vector_norm var std logsumexp prod median kthvalue all any")
_ORDERED = {"flip", "roll", "cumsum", "cumprod"}
_TRANSPOSING = {"permute", "transpose", "t", "swapaxes", "swapdims", "movedim", "moveaxis", "T", "mT", "H", "mH"}
_RESHAPING = {"reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as"}
_EXPANDING = {"expand", "expand_as", "broadcast_to", "repeat", "tile"}
# After these, what becomes of the numbers is not seen.
_LEAVING = {"setitem", "numpy", "array", "tolist", "item", "data_ptr", "storage", "untyped_storage", "dlpack"}
_CONSTANT = {"zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"}


class Tracer(Rules, TorchFunctionMode):
    """Labels every tensor of a forward pass with the axes of its dimensions.

    Parameters
    ----------
    leaves
        Parameters and buffers by name.
    stacks
        Operations (by number) whose first new dimension is indexed later on; completed by the pass.
    """

    def __init__(self, leaves: Mapping[str, Tensor], stacks: set[int]) -> None:
        super().__init__()
        self.stacks, self.known_stacks = set(stacks), frozenset(stacks)
        self.leaves = {name: [fresh(size) for size in tensor.shape] for name, tensor in leaves.items()}
        self.seen: set[int] = set()
        self._labels: dict[int, Label | Stacked] = {
            id(tensor): self.leaves[name] for name, tensor in leaves.items() if tensor.dim()
        }
        self._names = {id(tensor): name for name, tensor in leaves.items()}
        self._alive: list[Any] = list(leaves.values())
        self.number = 0

    def label(self, tensor: Tensor) -> Label:
        """Axes of a tensor's dimensions; fixed where its origin is unknown."""
        known = self.raw(tensor)
        if isinstance(known, Stacked):
            known = self._labels[id(tensor)] = known.merged()
        return known

    def raw(self, tensor: Tensor) -> Label | Stacked:
        """The same, several labels side by side where the tensor stacks them."""
        self.seen.add(id(tensor))
        known = self._labels.get(id(tensor))
        return [fixed(size) for size in tensor.shape] if known is None else known

    def close(self, outputs: Any) -> None:
        """Fix the outputs and whatever was not used, and settle what depends on what."""
        for tensor in _tensors(outputs):
            axes.fix_all(self.label(tensor))
        for key, name in self._names.items():
            if key not in self.seen:
                axes.fix_all(self.leaves[name])
        while sum(axes.settle(label) for label in self.leaves.values()):
            pass

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        self.number += 1
        given = _tensors((*args, *kwargs.values()))
        results = _tensors(result)
        if not given or (not results and _name(function) not in _LEAVING):
            return result
        # What must not be collected while its id stands for it.
        self._alive += [*given, *results]
        try:
            labels = self._rule(function, args, kwargs, given, result)
        except (TypeError, ValueError, IndexError):
            labels = None  # called in a way that its rule does not know
        if labels is None or not _fit(labels, results):
            for tensor in given:
                axes.fix_all(self.label(tensor))
            labels = [[fixed(size) for size in tensor.shape] for tensor in results]
        for tensor, label in zip(results, labels, strict=True):
            if not isinstance(label, Stacked):
                axes.settle(label)
            self._labels[id(tensor)] = label
        return result

    def _rule(
        self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], given: list[Tensor], result: Any
    ) -> "Sequence[Label | Stacked] | None":
        """Labels of the results; None where the operation is unknown and its inputs must stay as they are."""
        name = _name(function)
        label: Label
        several = isinstance(result, (tuple, list))
        if "out" in kwargs or result is None:
            return None
        if name in ("max", "min") and len(given) > 1:
            name = "maximum"
        special = getattr(self, f"_on_{name}", None)
        if special is not None:
            return special(result, *args, **kwargs)
        if name in _ELEMENTWISE and not several:
            return [self._together([self.label(tensor) for tensor in given], result)]
        if name in _SAME and not several:
            return [self.raw(given[0])]
        if name in _SYMMETRIC and len(given) == 1 and not several:
            return [self.label(given[0])]
        if name in _REDUCTIONS:
            return self._reduced(name, given, args, kwargs, result)
        if name in _ORDERED:
            label = self.label(given[0])
            for dim in dims_of(kwargs.get("dims", kwargs.get("dim", args[-1])), len(label)):
                axes.fix(label[dim])
            return [label]
        if name in _TRANSPOSING:
            return [self._transposed(function, given[0], args, kwargs)]
        if name in _RESHAPING:
            return [self._reshaped(given[0], result.shape)]
        if name in _EXPANDING:
            return [self._expanded(self.label(given[0]), given[0].shape, result.shape)]
        if name in _CONSTANT:
            return [[fresh(size) for size in result.shape]]
        if "pool" in name or name in ("interpolate", "upsample"):
            return [self._pooled(name, given[0], each) for each in _tensors(result)]
        return None


def _tensors(value: Any) -> list[Tensor]:
    """Every tensor in nested arguments or results."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = tuple(value.values())
    return [tensor for entry in value for tensor in _tensors(entry)] if isinstance(value, (tuple, list)) else []


def _fit(labels: Sequence[Label | Stacked], results: Sequence[Tensor]) -> bool:
    """Whether there is a label for each result, of its shape."""
    shapes = [label.shape if isinstance(label, Stacked) else [axes.size_of(t) for t in label] for label in labels]
    return shapes == [list(tensor.shape) for tensor in results]


def _name(function: Any) -> str:
    """Name of a torch function without what says how it was called."""
    name = getattr(function, "__name__", "")
    if name == "__get__":
        name = getattr(getattr(function, "__self__", None), "__name__", "")
    name = name.strip("_")
    return re.sub(r"^i(?=(add|sub|mul|truediv|div|pow|floordiv)$)", "", name)


def labels(network: nn.Module, run: Callable[[], Any]) -> dict[str, Label]:
    """Axes of every parameter and buffer of a network.

    Parameters
    ----------
    network
        In evaluation mode.
    run
        Passes a few examples through it.
    """
    leaves = dict(network.named_parameters()) | dict(network.named_buffers())
    stacks: set[int] = set()
    while True:
        tracer = Tracer(leaves, stacks)
        # With gradients, so that torch's fused transformer layers, which cannot be followed, stay off.
        with torch.enable_grad(), tracer:
            outputs = run()
        # A dimension that is indexed has parts of their own: known only at the end, so that the pass is repeated.
        if tracer.stacks == stacks:
            tracer.close(outputs)
            return tracer.leaves
        stacks = tracer.stacks
