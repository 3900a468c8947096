"""What a network does to its feature maps, found by running it once: which operations subsample, and from where."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# A map that is at most 3/4 as long as the one before was subsampled; one that lost a border was not.
_SUBSAMPLED = 0.75
# What makes one number of a whole map.
_REDUCTIONS = {"mean", "sum", "amax", "max", "median", "quantile", "logsumexp"}


@dataclass
class Node:
    """One tensor on the way from the images to the output.

    Attributes
    ----------
    operation
        Name of the function that made it; empty for the images.
    inputs
        Nodes that it was made from.
    scope
        Names of the modules within whose calls it was made, outermost first.
    shape, dtype
        Of the tensor.
    learned
        Whether a convolution or matrix lies between the images and it.
    subsamples
        The node whose map was made smaller here, or None.
    last
        The subsampling nodes nearest before it, itself included.
    depth, dominator
        In the tree of dominators: the nearest node that every path from the images to this one passes through.
    origin
        The node whose map this is, in another shape.
    """

    operation: str
    inputs: tuple[int, ...]
    scope: tuple[str, ...]
    shape: torch.Size
    dtype: torch.dtype
    learned: bool
    subsamples: int | None
    last: frozenset[int]
    depth: int
    dominator: int
    origin: int


class Trace(TorchFunctionMode):
    """Records the nodes of one forward pass, and what every module takes and returns.

    Attributes
    ----------
    nodes
        In the order of execution.
    takes, returns
        By module name: the node of a module's first tensor argument, and of its result if that is a tensor.
    calls
        By module name.
    gates
        Subsampling nodes whose result is spread over a map again, as in squeeze-and-excitation.
    merged
        Sets of subsampling nodes whose results meet.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self.takes: dict[str, int] = {}
        self.returns: dict[str, int] = {}
        self.calls: Counter[str] = Counter()
        self.gates: set[int] = set()
        self.merged: list[frozenset[int]] = []
        self._model = model
        self._weights = {id(parameter) for parameter in model.parameters() if parameter.dim() > 1}
        self._known: dict[int, int] = {}
        self._alive: list[Tensor] = []
        self._scope: list[str] = []

    @torch.no_grad()
    def run(self, images: Tensor) -> "Trace":
        """Pass images through the model."""
        self._add(images, Node("", (), (), images.shape, images.dtype, False, None, frozenset(), 0, 0, 0))
        handles = []
        for name, module in self._model.named_modules():
            handles.append(module.register_forward_pre_hook(self._enter_module(name), with_kwargs=True))
            handles.append(module.register_forward_hook(self._leave_module(name)))
        try:
            with self:
                self._model(images)
        finally:
            for handle in handles:
                handle.remove()
        return self

    def common(self, nodes: list[int]) -> int:
        """The last node that every path from the images to each of some nodes passes through."""
        return reduce(self._meet, nodes)

    def _meet(self, one: int, other: int) -> int:
        while one != other:
            if self.nodes[one].depth < self.nodes[other].depth:
                other = self.nodes[other].dominator
            else:
                one = self.nodes[one].dominator
        return one

    def _enter_module(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            self.calls[name] += 1
            self._scope.append(name)
            given = first_tensor(arguments, keywords)
            if given is not None and id(given) in self._known:
                self.takes[name] = self._known[id(given)]

        return hook

    def _leave_module(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            self._scope.pop()
            if isinstance(output, Tensor) and id(output) in self._known:
                self.returns[name] = self._known[id(output)]

        return hook

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [entry for value in (*args, *kwargs.values()) for entry in _tensors(value)]
        versions = {id(tensor): tensor._version for tensor in given}
        result = function(*args, **kwargs)
        inputs = tuple(dict.fromkeys(self._known[id(tensor)] for tensor in given if id(tensor) in self._known))
        if inputs:
            weighted = any(id(tensor) in self._weights for tensor in given)
            for output in _tensors(result):
                # What comes back as it went in is the same node; what was changed in place is a new one.
                if versions.get(id(output)) != output._version:
                    self._record(getattr(function, "__name__", ""), args, kwargs, inputs, output, weighted)
        return result

    def _record(
        self,
        operation: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        inputs: tuple[int, ...],
        output: Tensor,
        weighted: bool,
    ) -> None:
        index = len(self.nodes)
        before = [self.nodes[each] for each in inputs]
        first = before[0]
        smaller = self._subsampled(operation, args, kwargs, inputs[0], output)
        small = [node for node in before if math.prod(node.shape[2:]) == 1]
        if output.dim() == 4 and math.prod(output.shape[2:]) > 1:
            for node in small:
                self.gates |= node.last
            small = []
        last = frozenset().union(*(node.last for node in before)) - self.gates
        if len(inputs) > 1 and len(last) > 1:
            self.merged.append(last)
        dominator = self.common(list(inputs))
        same_map = output.dim() == 3 and first.shape[:2] == output.shape[:2] and first.shape.numel() == output.numel()
        self._add(
            output,
            Node(
                operation=operation,
                inputs=inputs,
                scope=tuple(self._scope),
                shape=output.shape,
                dtype=output.dtype,
                learned=weighted or any(node.learned for node in before),
                subsamples=smaller,
                last=last if smaller is None else frozenset([index]),
                depth=self.nodes[dominator].depth + 1,
                dominator=dominator,
                origin=first.origin if same_map else index,
            ),
        )

    def _subsampled(
        self, operation: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], given: int, output: Tensor
    ) -> int | None:
        """The node whose map (N, C, H, W) this operation makes smaller."""
        origin = self.nodes[given].origin
        shape = self.nodes[origin].shape
        if len(shape) != 4 or math.prod(shape[2:]) == 1:
            return None
        if operation == "conv2d":
            stride = kwargs.get("stride", args[3] if len(args) > 3 else 1)
            return origin if max(stride if isinstance(stride, (tuple, list)) else (stride,)) > 1 else None
        if operation in _REDUCTIONS:
            return origin if output.shape[:2] == shape[:2] and output.numel() == math.prod(shape[:2]) else None
        if ("pool" in operation or operation == "interpolate") and output.dim() == 4:
            ratio = min(after / before for after, before in zip(output.shape[2:], shape[2:], strict=True))
            return origin if ratio <= _SUBSAMPLED else None
        return None

    def _add(self, tensor: Tensor, node: Node) -> None:
        self._known[id(tensor)] = len(self.nodes)
        # Kept, so that ids stay theirs.
        self._alive.append(tensor)
        self.nodes.append(node)


def first_tensor(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor | None:
    """The first tensor that a module is called with."""
    return next((value for value in (*arguments, *keywords.values()) if isinstance(value, Tensor)), None)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [entry for entry in value if isinstance(entry, Tensor)] if isinstance(value, (tuple, list)) else []
