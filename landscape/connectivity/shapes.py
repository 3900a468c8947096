"""What happens to axes when tensors are reshaped, transposed, joined and indexed."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from landscape.connectivity import axes
from landscape.connectivity.axes import UNIT, Label, Term, fixed, fresh


class Stacked:
    """Several labels that an operation has put behind one dimension: queries, keys and values of one matrix."""

    def __init__(self, dim: int, parts: list[Label]) -> None:
        self.dim, self.parts = dim, parts

    @property
    def shape(self) -> list[int]:
        """Of the tensor."""
        sizes = [axes.size_of(term) for term in self.parts[0]]
        return [*sizes[: self.dim], len(self.parts), *sizes[self.dim :]]

    def merged(self) -> Label:
        """One label; the parts then permute alike."""
        for part in self.parts[1:]:
            for one, other in zip(self.parts[0], part, strict=True):
                axes.unify(one, other)
        label = list(self.parts[0])
        label.insert(self.dim, fixed(len(self.parts)))
        return label


class Shapes:
    """Rules for operations that move entries and compute nothing; `result` first, then as the operation is called.

    Attributes
    ----------
    stacks
        Numbers of the reshapes whose first new dimension was indexed.
    known_stacks
        Those known from an earlier pass.
    number
        Of the operation.
    """

    stacks: set[int]
    known_stacks: frozenset[int]
    number: int

    def raw(self, tensor: Tensor) -> Label | Stacked:
        """Axes of a tensor's dimensions, several side by side where it stacks them."""
        raise NotImplementedError

    def label(self, tensor: Tensor) -> Label:
        """Axes of a tensor's dimensions; fixed where it comes from nowhere."""
        raise NotImplementedError

    def _transposed(self, function: Any, given: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # Sizes tell where each dimension goes.
        sample = torch.empty(tuple(range(2, 2 + given.dim())))
        others = [sample if value is given else value for value in args]
        order = [size - 2 for size in function(*others, **kwargs).shape]
        label = self.raw(given)
        if isinstance(label, Stacked):
            inner = [n - (n > label.dim) for n in order if n != label.dim]
            return Stacked(order.index(label.dim), [[part[n] for n in inner] for part in label.parts])
        return [label[n] for n in order]

    def _reshaped(self, given: Tensor, shape: Sequence[int]) -> "Label | Stacked":
        label = [term for term in self.label(given) if axes.size_of(term) > 1]
        split: Label = []
        sizes = list(shape)
        while sizes:
            size = sizes.pop(0)
            if size == 1:
                split.append(UNIT)
                continue
            # The smallest block of dimensions on both sides with equally many entries.
            before, after = [label.pop(0)], [size]
            while (have := _count(before)) != (want := math.prod(after)):
                if have < want:
                    before.append(label.pop(0))
                else:
                    after.append(sizes.pop(0))
            term = before[0] if len(before) == 1 else axes.product(before)
            wide = [each for each in after if each > 1]
            if len(wide) == 1:
                parts = [term]
            elif self.number in self.known_stacks and len(wide) == len(after) and not label:
                return self._stacked(term, after, split, sizes)
            else:
                parts = axes.split(term, wide, origin=self.number)
            split += [UNIT if each == 1 else parts.pop(0) for each in after]
        return split

    def _stacked(self, term: Term, after: list[int], before: Label, sizes: Sequence[int]) -> Stacked:
        """A dimension of queries, keys and values, of which each is permuted on its own."""
        count, inner = after[0], after[1:]
        whole = [fresh(math.prod(inner)) for _ in range(count)]
        axes.unify(term, tuple(factors for each in whole for factors in each))
        behind = [UNIT] * len(sizes)
        return Stacked(len(before), [[*before, *axes.split(each, inner), *behind] for each in whole])

    def _expanded(self, label: Label, before: Sequence[int], after: Sequence[int]) -> Label:
        label = [UNIT] * (len(after) - len(label)) + list(label)
        before = [1] * (len(after) - len(before)) + list(before)
        expanded: Label = []
        for term, old, new in zip(label, before, after, strict=True):
            if old == new:
                expanded.append(term)
            elif old == 1:
                # Constant along it: any permutation leaves it as it is.
                expanded.append(fresh(new))
            else:
                axes.fix(term)
                expanded.append(fixed(new))
        return expanded

    def _on_pad(
        self, result: Tensor, input: Tensor, pad: Sequence[int], mode: str = "constant", value: Any = None
    ) -> Sequence[Label]:
        label = list(self.label(input))
        for pair in range(len(pad) // 2):
            before, after = pad[2 * pair], pad[2 * pair + 1]
            dim = len(label) - 1 - pair
            if not before and not after:
                continue
            if mode != "constant" or min(before, after) < 0 or axes.is_fixed(label[dim]):
                axes.fix(label[dim])
                label[dim] = fixed(result.shape[dim])
                continue
            ends = [fresh(size) if size else () for size in (before, after)]
            label[dim] = (*ends[0], *label[dim], *ends[1])
        return [label]

    def _on_cat(self, result: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> Sequence[Label]:
        labels = [self.label(tensor) for tensor in tensors if tensor.numel()]
        dim %= result.dim()
        for label in labels[1:]:
            for n, (one, other) in enumerate(zip(labels[0], label, strict=True)):
                if n != dim:
                    axes.unify(one, other)
        joined = list(labels[0])
        joined[dim] = tuple(factors for label in labels for factors in label[dim])
        return [joined]

    _on_concat = _on_concatenate = _on_cat

    def _on_stack(self, result: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> Sequence[Label]:
        labels = [self.label(tensor) for tensor in tensors]
        for label in labels[1:]:
            for one, other in zip(labels[0], label, strict=True):
                axes.unify(one, other)
        stacked = list(labels[0])
        stacked.insert(dim % result.dim(), fixed(len(tensors)))
        return [stacked]

    def _selected(self, label: Label, dim: int, index: int) -> Label:
        """One index of a dimension."""
        for factors in axes.resolve(label[dim]):
            self.stacks |= {axis.origin for axis in factors if axis.origin is not None}
        axes.fix(label[dim])
        return [term for n, term in enumerate(label) if n != dim]

    def _narrowed(self, label: Label, dim: int, start: int, length: int) -> Label:
        """A range of a dimension."""
        total = axes.size_of(label[dim])
        if length == total:
            return label
        parts = [fresh(size) if size else () for size in (start, length, total - start - length)]
        axes.unify(label[dim], tuple(factors for part in parts for factors in part))
        return [parts[1] if n == dim else term for n, term in enumerate(label)]

    def _on_unbind(self, result: Sequence[Tensor], input: Tensor, dim: int = 0) -> Sequence[Label]:
        known = self.raw(input)
        dim %= input.dim()
        if isinstance(known, Stacked) and known.dim == dim:
            return known.parts
        label = self.label(input)
        return [self._selected(label, dim, index) for index in range(len(result))]

    def _on_chunk(
        self, result: Sequence[Tensor], input: Tensor, *sizes: Any, dim: int | None = None, **more: Any
    ) -> Sequence[Label]:
        dim = dim if dim is not None else (sizes[1] if len(sizes) > 1 else 0)
        dim %= input.dim()
        label, start, labels = self.label(input), 0, []
        for part in result:
            labels.append(self._narrowed(label, dim, start, part.shape[dim]))
            start += part.shape[dim]
        return labels

    _on_split = _on_tensor_split = _on_split_with_sizes = _on_chunk

    def _on_select(self, result: Tensor, input: Tensor, dim: int, index: int) -> Sequence[Label]:
        return [self._indexed(input, (*[slice(None)] * (dim % input.dim()), index), result)]

    def _on_narrow(self, result: Tensor, input: Tensor, dim: int, start: int, length: int) -> Sequence[Label]:
        return [self._narrowed(self.label(input), dim % input.dim(), int(start) % input.shape[dim], length)]

    def _on_getitem(self, result: Tensor, input: Tensor, index: Any) -> Sequence[Label]:
        return [self._indexed(input, index if isinstance(index, tuple) else (index,), result)]

    def _indexed(self, input: Tensor, index: tuple[Any, ...], result: Tensor) -> Label:
        known = self.raw(input)
        if isinstance(known, Stacked) and known.dim == 0 and len(index) == 1 and type(index[0]) is int:
            return known.parts[index[0]]
        label = self.label(input)
        plain = all(entry is None or entry is Ellipsis or type(entry) in (int, slice) for entry in index)
        if not plain:
            axes.fix_all(label)
            return [fixed(size) for size in result.shape]
        used = sum(entry is not None and entry is not Ellipsis for entry in index)
        dim = 0
        for entry in index:
            if entry is None:
                label = [*label[:dim], UNIT, *label[dim:]]
            elif entry is Ellipsis:
                dim += input.dim() - used
                continue
            elif isinstance(entry, int):
                label = self._selected(label, dim, entry)
                continue
            else:
                total = axes.size_of(label[dim])
                start, stop, step = entry.indices(total)
                if step == 1 and stop > start:
                    label = self._narrowed(label, dim, start, stop - start)
                else:
                    axes.fix(label[dim])
                    label = [fixed(len(range(start, stop, step))) if n == dim else t for n, t in enumerate(label)]
            dim += 1
        return label


def _count(label: Sequence[Term]) -> int:
    return math.prod(axes.size_of(term) for term in label)
