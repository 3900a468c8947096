"""Axes of tensors as unknowns: which of them must be permuted alike, by unification.

An :class:`Axis` is an unknown permutation. A dimension of a tensor is a *term*: segments one behind the other, each a
product of axes in row-major order. Channels are one axis, a concatenation has several segments, ``(heads, width)``
flattened is a product. Whatever meets in a network is unified: axes are merged, or split where the other side is finer.
What cannot be followed is fixed, so that every doubt costs freedom and never correctness.
"""

import math
from collections.abc import Iterable, Sequence

Factors = tuple["Axis", ...]
Term = tuple[Factors, ...]
Label = list[Term]

UNIT: Term = ((),)


class Axis:
    """One unknown permutation.

    Attributes
    ----------
    size
        Number of indices.
    fixed
        Whether nothing but the identity is left.
    within
        The axis on whose index the permutation depends: channels of an attention head, of a group of a convolution.
    bound
        What the axis is made of, once it was merged or split.
    origin
        Number of the operation that split it off, if it was the first of several parts.
    """

    __slots__ = ("bound", "fixed", "origin", "size", "within")

    def __init__(self, size: int, *, fixed: bool = False, within: "Axis | None" = None) -> None:
        self.size, self.fixed, self.within = size, fixed, within
        self.bound: Term | None = None
        self.origin: int | None = None


def fresh(size: int, *, fixed: bool = False) -> Term:
    """A term of one new axis."""
    return UNIT if size == 1 else ((Axis(size, fixed=fixed),),)


def fixed(size: int) -> Term:
    """A term that cannot be permuted."""
    return fresh(size, fixed=True)


def size_of(term: Term) -> int:
    """Number of indices of a term."""
    return sum(math.prod(axis.size for axis in factors) for factors in term)


def resolve(term: Term) -> Term:
    """The same term in axes that are not bound."""
    whole: list[Factors] = []
    for factors in term:
        segments: list[Factors] = [()]
        for axis in factors:
            if axis.size == 1:
                continue
            parts: Term = ((axis,),) if axis.bound is None else resolve(axis.bound)
            if len(parts) == 1:
                segments = [segment + parts[0] for segment in segments]
            elif segments == [()]:
                segments = list(parts)
            else:
                # A concatenation inside a product has no such form.
                fix([factors])
                segments = list(fixed(math.prod(each.size for each in factors)))
                break
        whole += segments
    return tuple(whole)


def parent(axis: Axis) -> Axis | None:
    """The unbound axis that a permutation depends on; None where it depends on nothing any more."""
    above = axis.within
    while above is not None and above.bound is not None:
        above = above.bound[0][0] if len(above.bound) == 1 and len(above.bound[0]) == 1 else None
    return None if above is None or above is axis or above.within is not None else above


def fix(term: Iterable[Factors]) -> None:
    """Leave nothing but the identity."""
    for factors in term:
        for axis in factors:
            if axis.bound is None:
                axis.fixed = True
            else:
                fix(axis.bound)


def fix_all(label: Iterable[Term]) -> None:
    """Leave nothing but the identity in any dimension."""
    for term in label:
        fix(term)


def is_fixed(term: Term) -> bool:
    """Whether nothing but the identity is left."""
    return all(axis.fixed for factors in resolve(term) for axis in factors)


def product(terms: Sequence[Term]) -> Term:
    """Dimensions flattened to one, row-major."""
    resolved = [resolve(term) for term in terms if size_of(term) > 1]
    if not resolved:
        return UNIT
    if any(len(term) > 1 for term in resolved[1:]):
        for term in resolved:
            fix(term)
        return fixed(math.prod(size_of(term) for term in terms))
    tail = tuple(axis for term in resolved[1:] for axis in term[0])
    return tuple(factors + tail for factors in resolved[0])


def unify(one: Term, other: Term) -> None:
    """Make two dimensions of equal size permute alike."""
    left, right = list(one), list(other)
    while left or right:
        left[:1], right[:1] = resolve((left[0],)), resolve((right[0],))
        here, there = (math.prod(axis.size for axis in side[0]) for side in (left, right))
        if here == there:
            _unify_products(left.pop(0), right.pop(0))
            continue
        longer, length = (left, there) if here > there else (right, here)
        first, *rest = longer[0]
        inner = math.prod(axis.size for axis in rest)
        if length % inner:
            fix([*left, *right])
            return
        split_sum(first, [length // inner, first.size - length // inner])
        longer[:1] = resolve((longer[0],))


def _unify_products(one: Factors, other: Factors) -> None:
    left, right = list(one), list(other)
    while left and right:
        for side in (left, right):
            term = resolve(((side[0],),))
            if len(term) > 1:
                fix([tuple(left), tuple(right)])
                return
            side[:1] = term[0]
        if not left or not right:
            continue
        here, there = left[0], right[0]
        if here.size == there.size:
            _merge(here, there)
            del left[0], right[0]
            continue
        longer, length = (left, there.size) if here.size > there.size else (right, here.size)
        if longer[0].size % length:
            fix([tuple(left), tuple(right)])
            return
        split_product(longer[0], length)


def _merge(one: Axis, other: Axis) -> None:
    if one is other:
        return
    above = parent(one)
    other.within = above if above is not None and above is parent(other) else None
    other.fixed = other.fixed or one.fixed
    other.origin = one.origin if other.origin is None else other.origin
    one.bound = ((other,),)


def split_sum(axis: Axis, sizes: Sequence[int]) -> list[Axis]:
    """Make an axis a concatenation."""
    parts = [Axis(size, fixed=axis.fixed, within=axis.within) for size in sizes if size]
    axis.bound = tuple((part,) for part in parts)
    return parts


def split_product(axis: Axis, outer: int, *, origin: int | None = None) -> tuple[Axis, Axis]:
    """Make an axis a product: blocks that may be permuted, each with a permutation of its own inside."""
    first = Axis(outer, fixed=axis.fixed, within=axis.within)
    second = Axis(axis.size // outer, fixed=axis.fixed, within=first if axis.within is None else None)
    first.origin = origin
    axis.bound = ((first, second),)
    return first, second


def split(term: Term, sizes: Sequence[int], *, origin: int | None = None) -> list[Term]:
    """A dimension reshaped to several, row-major."""
    term = resolve(term)
    if len(term) > 1:
        fix(term)
        return [fixed(size) for size in sizes]
    factors = list(term[0])
    terms: list[Term] = []
    for size in sizes:
        taken: list[Axis] = []
        left = size
        while left > 1:
            axis = factors[0]
            if axis.size <= left and left % axis.size == 0:
                taken.append(factors.pop(0))
                left //= axis.size
            elif axis.size > left and axis.size % left == 0:
                factors[:1] = split_product(axis, left, origin=origin)
            else:
                fix(term)
                return [fixed(each) for each in sizes]
        terms.append((tuple(taken),))
    return terms


def settle(label: Label) -> bool:
    """Free permutations from axes that their tensor does not have; returns whether there was any."""
    terms = [resolve(term) for term in label]
    changed = False
    for dim, term in enumerate(terms):
        elsewhere = {axis for n, other in enumerate(terms) if n != dim and len(other) == 1 for axis in other[0]}
        for factors in term:
            for axis in factors:
                above = parent(axis)
                if axis.within is not None and (above is None or above not in elsewhere | set(factors)):
                    axis.within = None
                    changed = True
    return changed
