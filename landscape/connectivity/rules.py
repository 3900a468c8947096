"""What happens to axes when tensors are multiplied, summed, convolved, normalised and attended to."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from landscape.connectivity import axes
from landscape.connectivity.axes import UNIT, Axis, Label, Term, fixed
from landscape.connectivity.shapes import Shapes


class Rules(Shapes):
    """Rules for operations that compute; `result` first, then as the operation is called.

    Each gives the labels of the results, or None where it cannot follow, and the inputs must stay as they are.
    """

    def _together(self, labels: Sequence[Label], result: Tensor) -> Label:
        """Broadcast elementwise."""
        merged: Label = []
        for dim in range(-result.dim(), 0):
            terms = [label[dim] for label in labels if len(label) >= -dim]
            wide = [term for term in terms if axes.size_of(term) > 1]
            for term in wide[1:]:
                axes.unify(wide[0], term)
            merged.append(wide[0] if wide else UNIT)
        return merged

    def _contracted(self, inputs: Sequence[tuple[str, Label]], output: str) -> Label:
        """A sum over products, as an einsum says it: dimensions of one letter permute alike."""
        terms: dict[str, Term] = {}
        for letters, label in inputs:
            for letter, term in zip(letters, label, strict=True):
                if axes.size_of(terms.get(letter, UNIT)) == 1:
                    terms[letter] = term
                elif axes.size_of(term) > 1:
                    axes.unify(terms[letter], term)
        for letter, term in terms.items():
            if letter in output:
                continue
            # Inside another axis, channels may only be summed over where everything summed has that axis.
            around = set.intersection(*(set(letters) for letters, _ in inputs if letter in letters)) - {letter}
            shared = {axis for other in around for factors in axes.resolve(terms[other]) for axis in factors}
            for factors in axes.resolve(term):
                for axis in factors:
                    if axis.within is not None and axes.parent(axis) not in shared | set(factors):
                        axis.within = None
        return [terms[letter] for letter in output]

    def _on_matmul(self, result: Tensor, one: Tensor, other: Tensor) -> Sequence[Label] | None:
        left, right = self.label(one), self.label(other)
        if len(left) < 2 or len(right) < 2:
            return None
        batch = "abcdefgh"[-max(len(left), len(right)) + 2 :] if max(len(left), len(right)) > 2 else ""
        letters = [batch[len(batch) - len(label) + 2 :] for label in (left, right)]
        inputs = [(letters[0] + "xy", left), (letters[1] + "yz", right)]
        return [self._contracted(inputs, batch + "xz")]

    _on_bmm = _on_mm = _on_matmul

    def _on_rmatmul(self, result: Tensor, one: Tensor, other: Tensor) -> Sequence[Label] | None:
        return self._on_matmul(result, other, one)

    def _on_addmm(
        self, result: Tensor, added: Tensor, one: Tensor, other: Tensor, **scales: Any
    ) -> Sequence[Label] | None:
        product = self._on_matmul(result, one, other)
        return None if product is None else [self._together([product[0], self.label(added)], result)]

    _on_baddbmm = _on_addmm

    def _on_einsum(self, result: Tensor, equation: Any, *operands: Any) -> Sequence[Label] | None:
        tensors = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else list(operands)
        if not isinstance(equation, str) or "..." in equation or "->" not in equation:
            return None
        left, output = equation.replace(" ", "").split("->")
        letters = left.split(",")
        if any(len(set(part)) < len(part) for part in letters):
            return None
        inputs = [(part, self.label(tensor)) for part, tensor in zip(letters, tensors, strict=True)]
        return [self._contracted(inputs, output)]

    def _on_linear(
        self, result: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> Sequence[Label] | None:
        label = self.label(input)
        letters = "abcdefgh"[: len(label) - 1]
        product = self._contracted([(letters + "i", label), ("oi", self.label(weight))], letters + "o")
        return [product if bias is None else self._together([product, self.label(bias)], result)]

    def _on_conv2d(
        self, result: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **settings: Any
    ) -> Sequence[Label] | None:
        groups = settings.get("groups", rest[3] if len(rest) > 3 else 1)
        images, kernel = self.label(input), self.label(weight)
        channel = len(images) - len(kernel) + 1
        axes.fix_all(kernel[2:])
        axes.fix_all(images[channel + 1 :])
        outputs, inputs = kernel[0], kernel[1]
        if groups > 1:
            group = Axis(groups)

            def grouped(term: Term) -> Term:
                each = axes.size_of(term) // groups
                part = [Axis(each, within=group)] if each > 1 else []
                axes.unify(term, ((group, *part),))
                return (tuple(part),)

            inner = grouped(images[channel])
            grouped(outputs)
            axes.unify(inputs, inner)
        else:
            axes.unify(images[channel], inputs)
        if bias is not None:
            axes.unify(outputs, self.label(bias)[0])
        return [[*images[:channel], outputs, *[fixed(size) for size in result.shape[channel + 1 :]]]]

    _on_conv1d = _on_conv3d = _on_conv2d

    def _on_conv_transpose2d(
        self, result: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **settings: Any
    ) -> Sequence[Label] | None:
        groups = settings.get("groups", rest[3] if len(rest) > 3 else 1)
        images, kernel = self.label(input), self.label(weight)
        if groups != 1 or len(images) != len(kernel):
            return None
        axes.fix_all(kernel[2:])
        axes.fix_all(images[2:])
        axes.unify(images[1], kernel[0])
        if bias is not None:
            axes.unify(kernel[1], self.label(bias)[0])
        return [[images[0], kernel[1], *[fixed(size) for size in result.shape[2:]]]]

    _on_conv_transpose1d = _on_conv_transpose3d = _on_conv_transpose2d

    def _on_batch_norm(self, result: Tensor, input: Tensor, *vectors: Any, **settings: Any) -> Sequence[Label] | None:
        label = self.label(input)
        for vector in (*vectors, *settings.values()):
            if isinstance(vector, Tensor):
                axes.unify(label[1], self.label(vector)[0])
        return [label]

    _on_instance_norm = _on_batch_norm

    def _on_prelu(self, result: Tensor, input: Tensor, weight: Tensor) -> Sequence[Label] | None:
        label = self.label(input)
        if weight.numel() > 1:
            axes.unify(label[1], self.label(weight)[0])
        return [label]

    def _on_layer_norm(
        self, result: Tensor, input: Tensor, normalized_shape: Sequence[int], *vectors: Any, **settings: Any
    ) -> Sequence[Label] | None:
        label = self.label(input)
        for vector in (*vectors, *settings.values()):
            if isinstance(vector, Tensor):
                for term, other in zip(label[-vector.dim() :], self.label(vector), strict=True):
                    axes.unify(term, other)
        return [label]

    _on_rms_norm = _on_layer_norm

    def _on_group_norm(
        self,
        result: Tensor,
        input: Tensor,
        num_groups: int,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Sequence[Label] | None:
        label = self.label(input)
        group = Axis(num_groups)
        each = axes.size_of(label[1]) // num_groups
        if num_groups > 1:
            axes.unify(label[1], ((group, Axis(each, within=group)),) if each > 1 else ((group,),))
        for vector in (weight, bias):
            if vector is not None:
                axes.unify(label[1], self.label(vector)[0])
        return [label]

    def _on_glu(self, result: Tensor, input: Tensor, dim: int = -1) -> Sequence[Label] | None:
        label, dim = self.label(input), dim % input.dim()
        half = input.shape[dim] // 2
        values, gates = (self._narrowed(label, dim, start, half) for start in (0, half))
        return [self._together([values, gates], result)]

    def _on_embedding(self, result: Tensor, input: Tensor, weight: Tensor, *rest: Any, **more: Any) -> Sequence[Label]:
        table = self.label(weight)
        axes.fix(table[0])
        return [[*self.label(input), table[1]]]

    def _on_scaled_dot_product_attention(
        self,
        result: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **settings: Any,
    ) -> Sequence[Label] | None:
        one, two, three = self.label(query), self.label(key), self.label(value)
        if settings.get("enable_gqa") or not len(one) == len(two) == len(three):
            return None
        batch = "abcdefgh"[: len(one) - 2]
        scores = self._contracted([(batch + "lk", one), (batch + "sk", two)], batch + "ls")
        if attn_mask is not None:
            for dim, term in enumerate(reversed(self.label(attn_mask)), 1):
                if axes.size_of(term) > 1:
                    axes.unify(scores[-dim], term)
        if is_causal:
            axes.fix_all(scores[-2:])
        return [self._contracted([(batch + "ls", scores), (batch + "sv", three)], batch + "lv")]

    def _on_multi_head_attention_forward(
        self,
        result: tuple[Tensor, Tensor | None],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        embed_dim_to_check: int,
        num_heads: int,
        in_proj_weight: Tensor | None,
        in_proj_bias: Tensor | None,
        bias_k: Tensor | None,
        bias_v: Tensor | None,
        add_zero_attn: bool,
        dropout_p: float,
        out_proj_weight: Tensor,
        out_proj_bias: Tensor | None,
        **settings: Any,
    ) -> Sequence[Label] | None:
        if in_proj_weight is None or bias_k is not None or bias_v is not None or add_zero_attn:
            return None
        width = embed_dim_to_check // num_heads
        heads = Axis(num_heads)
        # Queries and keys of a head are permuted alike, values on their own.
        inner = {name: Axis(width, within=heads) for name in ("scores", "values")}
        parts = [(heads, inner["scores"]), (heads, inner["scores"]), (heads, inner["values"])]
        projection, out = self.label(in_proj_weight), self.label(out_proj_weight)
        axes.unify(projection[0], tuple(parts))
        if in_proj_bias is not None:
            axes.unify(projection[0], self.label(in_proj_bias)[0])
        for tensor in (query, key, value):
            label = self.label(tensor)
            axes.unify(label[-1], projection[1])
            # Order of the tokens and masks of them.
            axes.fix_all(label[:-1])
        axes.unify(out[1], (parts[2],))
        if out_proj_bias is not None:
            axes.unify(out[0], self.label(out_proj_bias)[0])
        labels: list[Label] = [[*self.label(query)[:-1], out[0]]]
        return labels if result[1] is None else [*labels, [fixed(size) for size in result[1].shape]]

    def _reduced(
        self, name: str, given: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> Sequence[Label] | None:
        label = self.label(given[0])
        position = 2 if name in ("kthvalue", "norm", "vector_norm") else 1
        dims = kwargs.get("dim", kwargs.get("axis", args[position] if len(args) > position else None))
        if len(given) > 1 or isinstance(dims, (str, torch.dtype)):
            return None
        reduced = set(dims_of(dims, len(label)))
        values = result if isinstance(result, Tensor) else result[0]
        kept = values.dim() == len(label)
        remaining = [UNIT if n in reduced else term for n, term in enumerate(label) if kept or n not in reduced]
        if isinstance(result, Tensor):
            return [remaining]
        # Where the extreme is depends on the order.
        axes.fix_all([label[n] for n in reduced])
        return [remaining, remaining]

    def _pooled(self, name: str, given: Tensor, result: Tensor) -> Label:
        label = self.label(given)
        spatial = re.search(r"([123])d$", name)
        first = len(label) - (int(spatial[1]) if spatial else len(label) - 2)
        axes.fix_all(label[first:])
        return [*label[:first], *[fixed(size) for size in result.shape[first:]]]


def dims_of(dims: Any, count: int) -> list[int]:
    """Numbers of dimensions, of all `count` of them where none is named."""
    if dims is None or dims == ():
        return list(range(count))
    return [dim % count for dim in (dims if isinstance(dims, (tuple, list)) else (dims,))]
