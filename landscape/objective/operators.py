"""Curvature as symmetric operators on flat vectors: Hessian, generalised Gauss-Newton, empirical Fisher.

A product differentiates a graph. Graphs of as many micro-batches as the memory budget allows are built once and kept;
those of the others are built anew for every product, but only once for all vectors that are multiplied together.
"""

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from landscape.compute import distributed, workers
from landscape.compute.memory import available_memory, total_memory
from landscape.compute.randomness import generator
from landscape.compute.settings import math_attention, measurement
from landscape.eigen.operator import SymmetricOperator
from landscape.errors import LandscapeError
from landscape.objective.chunked import Deferred
from landscape.objective.convolution import CheapDoubleBackward
from landscape.objective.losses import Classification
from landscape.objective.objective import Objective
from landscape.objective.recomputing import is_transient

Kind = Literal["hessian", "ggn", "fisher"]
Product = Callable[[Sequence[Tensor]], Sequence[Tensor]]

# What each kind is, for people.
MATRICES: dict[str, str] = {
    "hessian": "Hessian of the mean loss plus L2 term",
    "ggn": "generalised Gauss-Newton matrix of the mean loss plus the Hessian of the L2 term",
    "fisher": "empirical Fisher matrix of the mean loss without L2 term",
}

# Vectors that are multiplied at once, at most: a graph costs less than a vector through it (`benchmarks/hessian.py`),
# so that an eighth of it is little beside the vector, and sixteen need twice the memory.
_TOGETHER = 8

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """How products are computed: what ``--plan`` prints."""

    micro_batch: int
    micro_batches: int
    kept: int
    bytes_each: int
    examples: str = "images"

    def __str__(self) -> str:
        return (
            f"{self.micro_batches} micro-batches of {self.micro_batch} {self.examples}, graphs of {self.kept} kept "
            f"({self.kept * self.bytes_each / 2**20:.0f} MiB), {self.micro_batches - self.kept} recomputed; "
            "batch norm folded where a convolution feeds it, channels-last"
        )


class CurvatureOperator(SymmetricOperator):
    r"""A symmetric operator :math:`v \mapsto A v` on flat vectors (P,) or (P, k), at one point of weight space.

    ``hessian``
        :math:`\nabla^2 L`, the L2 term included.
    ``ggn``
        :math:`\frac1T\sum_t J_t^\top (\nabla_f^2 \ell_t) J_t` plus the Hessian of the L2 term: positive semi-definite
        for a convex loss; what is left of the Hessian holds all its negative curvature (Schraudolph 2002).
    ``fisher``
        The empirical Fisher :math:`\frac1T\sum_t g_t g_t^\top` of the gradients of single terms (images, tokens that
        count, entries of a map), without the L2 term. (The Fisher matrix of the model's own distribution is the GGN for
        cross-entropy.)

    Parameters
    ----------
    objective
        What is differentiated.
    kind
        Which matrix.
    point
        Flat parameters (P,), or None for the network's own.
    sample
        Which draw of the dropout masks; held for all products, since an operator that redraws is not symmetric.
    first, last
        Only these examples (a mini-batch), as if they were all there are; everything by default.
    micro_batch
        Examples in one graph, the objective's own number by default.

    Attributes
    ----------
    products
        Number of products with a single vector so far.
    """

    @measurement
    def __init__(
        self,
        objective: Objective,
        kind: Kind = "hessian",
        *,
        point: Tensor | None = None,
        sample: int = 0,
        first: int | None = None,
        last: int | None = None,
        micro_batch: int | None = None,
    ) -> None:
        if kind not in _GRAPHS:
            raise LandscapeError(f"unknown operator {kind!r}: choose one of {', '.join(_GRAPHS)}")
        if reason := _REFUSED[kind](objective):
            raise LandscapeError(f"no {kind} matrix of the loss {objective.loss.name}: {reason}; use the Hessian")
        self.objective = objective
        self.kind: Kind = kind
        self.size = objective.size
        self.dtype = objective.dtype
        self.device = objective.device
        self.products = 0
        self._sample = sample
        whole = first is None and last is None
        self._micro_batch = micro_batch or objective.micro_batch
        self._ranges = objective.micro_batches(first, last, size=self._micro_batch)
        # Each micro-batch's loss is its part of the mean over all terms; of a mini-batch, over the mini-batch.
        covered = sum(objective.count(start, stop) for start, stop in self._ranges)
        self._scale = 1.0 if whole else objective.terms / (covered or 1)
        parameters, self._statistics = objective.weights(point, sample=sample)
        self._leaves = [value.detach().clone().requires_grad_() for value in parameters]
        self._kept: list[Product] = []
        self._allowed = 0
        self._bytes_each: int | None = None
        self._building = threading.RLock()

    def __repr__(self) -> str:
        return (
            f"CurvatureOperator({self.kind}, {self.size:,} x {self.size:,}, {self.objective.images:,} images, "
            f"{self.products:,} products so far)"
        )

    def attributes(self, **more: object) -> dict[str, object]:
        """What was multiplied with, and how often, as attributes of a result; `more` adds to them or replaces them."""
        facts = {"operator": self.kind, "products": self.products, "parameters": self.size}
        return {**facts, "images": self.objective.images, **more}

    @property
    @measurement
    def plan(self) -> Plan:
        """What is kept and what recomputed; measures the first micro-batch if no product has been taken yet."""
        self._measure()
        return Plan(
            self._micro_batch, len(self._ranges), self._allowed, self._bytes_each or 0, self.objective.kind_of_examples
        )

    @measurement
    def predicted_seconds(self) -> float:
        """Seconds of a product with one vector, from the first micro-batch's alone: nothing is kept."""
        self._measure()
        if not self._ranges:
            return 0.0
        ones = [torch.ones_like(leaf) for leaf in self._leaves]

        def timed(run: Callable[[], Sequence[Tensor]]) -> float:
            started = time.perf_counter()
            float(run()[0].sum())  # waits for the device
            return time.perf_counter() - started

        graph = self._graph(0)
        # Others on the machine can only add to a time.
        kept = min(timed(lambda: graph(ones)) for _ in range(3))
        recomputed = min(timed(lambda: self._graph(0)(ones)) for _ in range(3))
        sizes = [stop - start for start, stop in self._ranges]
        return (kept * sum(sizes[: self._allowed]) + recomputed * sum(sizes[self._allowed :])) / sizes[0]

    @measurement
    def _graph(self, batch: int) -> Product:
        start, stop = self._ranges[batch]
        with torch.enable_grad(), CheapDoubleBackward(), twice_differentiable():
            return _GRAPHS[self.kind](_Batch(self.objective, self._leaves, start, stop, self._sample, self._statistics))

    def _measure(self) -> None:
        """What a graph holds, and so how many the budget allows; the first time."""
        if self._bytes_each is not None or not self._ranges:
            return
        counter = _SavedBytes(self._leaves)
        try:
            with torch.autograd.graph.saved_tensors_hooks(counter.pack, counter.unpack):
                self._graph(0)
        except RuntimeError as error:
            # `torch.func.grad`, in a loss or a network, takes no such hooks: count all that is computed, which is more.
            if "saved tensor hooks" not in str(error):
                raise
            counter = _SavedBytes(self._leaves)
            with _Computed(counter):
                self._graph(0)
        self._bytes_each = counter.total
        self._allowed = min(len(self._ranges), self._budget() // max(counter.total, 1))
        _log.debug("%s products: %s", self.kind, self.plan)

    def _budget(self) -> int:
        """Bytes that graphs may take."""
        budget = self.objective.memory
        return available_memory(self.device) // 2 if budget is None else budget

    def _keep(self) -> None:
        """Build the graphs that the budget allows, the first time."""
        with self._building:
            self._measure()
            if len(self._kept) < self._allowed:
                with math_attention:
                    alone = self._one_core_each()
                    self._kept = list(workers.each(self._graph, range(self._allowed), self.device, one_core=alone))

    def _one_core_each(self) -> int:
        """How many of the micro-batches get a core each: those that fill the cores, where their graphs can stand.

        That decides bits, so it depends on the machine alone, not on the memory that is free or allowed.
        """
        count, cores = len(self._ranges), workers.cores(self.device)
        fits = cores * (self._bytes_each or 0) <= total_memory(self.device) // 2
        return count - count % cores if fits else 0

    @measurement
    def __call__(self, vectors: Tensor) -> Tensor:
        """Multiply flat vectors (P,) or (P, k); when memory runs out, with smaller micro-batches, down to 1."""
        columns = vectors if vectors.dim() == 2 else vectors[:, None]
        total = self.objective.reduced(self._sum_of_batches(columns))
        self.products += columns.shape[1]
        if self.kind != "fisher":
            total += self.objective.l2.product([leaf.detach() for leaf in self._leaves], columns)
        return total if vectors.dim() == 2 else total[:, 0]

    def _sum_of_batches(self, columns: Tensor) -> Tensor:
        """What the examples of this process contribute to the product (P, k), without the L2 term."""
        while True:
            total = torch.zeros_like(columns)
            try:
                for _, product in self.batch_products(columns):
                    total += product
                return total
            except torch.OutOfMemoryError:
                self.halve()

    def batch_products(self, columns: Tensor) -> Iterator[tuple[tuple[int, int], Tensor]]:
        """Range (start, stop) and contribution (P, k) of each micro-batch to the product, without the L2 term."""
        while True:
            try:
                self._keep()
                break
            except torch.OutOfMemoryError:
                self.halve()
        space = self.objective.space
        parts = [space.split(column) for column in columns.to(self.dtype).T.contiguous()]

        def through(product: Product) -> Tensor:
            result = torch.empty(columns.shape, dtype=self.dtype, device=self.device)
            for index, part in enumerate(parts):
                result[:, index] = space.flatten(product(part))
            return result if self._scale == 1.0 else result.mul_(self._scale)

        def one(index: int) -> Tensor:
            return through(self._kept[index] if index < len(self._kept) else self._graph(index))

        at_once = self._at_once()
        count, alone = len(self._ranges), self._one_core_each()
        with math_attention:
            products = workers.each(one, range(count), self.device, at_once=at_once, one_core=alone)
            yield from zip(self._ranges, products, strict=True)

    def _at_once(self) -> int | None:
        """Micro-batches at a time, None for all: as many graphs are built anew as might be kept, or one per core.

        The budget is for what is kept. A core that waited for memory beyond it would cost half of the time, or more on
        more cores.
        """
        if self._allowed == len(self._ranges):
            return None
        graph, cores = max(self._bytes_each or 0, 1), workers.cores(self.device)
        fits = self._one_core_each() > 0 and cores * graph <= available_memory(self.device) // 2
        return max(self._budget() // graph, cores if fits else 0)

    @measurement
    def together(self, rows: int = 0) -> int:
        """How many vectors had best be multiplied at once, when each needs memory for `rows` more.

        One where all graphs are kept. Where some are built anew, all vectors that are multiplied at once share them:
        with eight, a product costs 1.4 gradients instead of 2.2. Vectors beyond the first, with the products that
        micro-batches at work hold, take at most what kept graphs leave of the budget, or as much as one graph.
        """
        self._measure()
        at_once = self._at_once()
        if at_once is None and not self.objective.sharded:
            return 1
        at_once = len(self._ranges) if at_once is None else at_once
        cores = workers.cores(self.device)
        waiting = 1 if cores == 1 else cores + (2 * cores if at_once >= cores else max(at_once, 1))
        each = (3 + waiting + rows) * self.size * self.dtype.itemsize
        graph = self._bytes_each or 0
        count = min(_TOGETHER, 1 + max(self._budget() - self._allowed * graph, graph) // max(each, 1))
        return distributed.smallest(count, self.device) if self.objective.sharded else count

    @measurement
    def batch_projections(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""Projections :math:`V^\top A_b V` of each micro-batch *b*'s own mean, for orthonormal columns *V* (P, k).

        Returns
        -------
        projections : Tensor
            (B, k, k), float64, without the L2 term; Rayleigh quotients are their diagonals. Their mean weighted with
            the counts is the projection of the whole.
        numbers, counts : Tensor
            (B,) number of each micro-batch, counted over all processes, and terms of the loss in it.
        """
        rows, numbers, counts = [], [], []
        for (start, stop), product in self.batch_products(vectors):
            count = self.objective.count(start, stop)
            if not count:  # none of its targets counts
                continue
            fraction = self.objective.fraction(start, stop) * self._scale
            # Column by column: copies in float64 of all of them would be large.
            columns = [(vectors * column[:, None]).sum(0, dtype=torch.float64) for column in product.T]
            rows.append(torch.stack(columns, dim=1) / fraction)
            numbers.append(start // self._micro_batch)
            counts.append(count)
        self.products += vectors.shape[1]
        return torch.stack(rows), torch.tensor(numbers), torch.tensor(counts)

    @property
    def relative_rounding(self) -> float:
        """Rounding of a product with a unit vector, relative to the operator's norm; measured once per objective."""
        known = self.objective.roundings
        with _measuring:
            if self.kind not in known:
                known[self.kind] = relative_rounding(self.objective, self.kind, sample=self._sample)
        return known[self.kind]

    def halve(self) -> None:
        """Go on with micro-batches half as large, after the device ran out of memory."""
        if self._micro_batch == 1:
            raise LandscapeError(
                "out of memory with micro-batches of one example: use a smaller network or --device cpu"
            )
        self._micro_batch //= 2
        _log.warning("out of memory: micro-batches of %d from here on", self._micro_batch)
        first, last = self._ranges[0][0], self._ranges[-1][1]
        self._kept, self._allowed, self._bytes_each = [], 0, None
        self._ranges = self.objective.micro_batches(first, last, size=self._micro_batch)


# Units of the last place that a product of a trained network is off by, relative to the largest eigenvalue: ten to a
# hundred were measured. Most come from activations so near to a kink that rounding decides on which side they are: few
# images show one, so that a small sample of images may show none.
_ROUNDING = 128
_measuring = threading.RLock()
# Images on which rounding is measured, and how many at once: a float64 graph of all would be the peak of a whole run.
_ROUNDING_IMAGES, _ROUNDING_AT_ONCE = 16, 4


@measurement
def relative_rounding(objective: Objective, kind: Kind = "hessian", *, sample: int = 0) -> float:
    r"""Rounding of a product relative to the largest eigenvalue.

    The product with the gradient, where curvature is well above rounding, against the same in float64, on the first 16
    examples; at least 128 units of the last place. In float64 these 128 units alone.

    Parameters
    ----------
    objective
        The function.
    kind
        Which curvature.
    sample
        Which draw of the dropout masks.
    """
    least = _ROUNDING * torch.finfo(objective.dtype).eps
    # Statistics of each batch make a batch another function than its parts.
    whole = objective.protocol.batch_norm == "batch"
    count, at_once = (objective.micro_batch,) * 2 if whole else (_ROUNDING_IMAGES, _ROUNDING_AT_ONCE)
    first, last = objective.first, min(objective.first + count, objective.last)
    if objective.dtype == torch.float64 or first == last:
        return least
    double = objective.in_double()
    exact, rough = (
        CurvatureOperator(one.within(0), kind, sample=sample, first=first, last=last, micro_batch=at_once)
        for one in (double, objective)
    )
    leaves = [leaf.detach().requires_grad_() for leaf in double.weights().parameters]
    gradient = torch.zeros(double.size, dtype=torch.float64, device=double.device)
    for start, stop in double.micro_batches(first, last, size=at_once):
        with torch.enable_grad():
            loss = double.batch_loss(leaves, start, stop, sample=sample)
        gradient += double.space.flatten(torch.autograd.grad(loss, leaves, materialize_grads=True))
    length = float(gradient.norm())
    if not 0 < length < math.inf:
        return least
    # The product must be of the vector that float32 can hold.
    direction = (gradient / length).to(objective.dtype)
    truth = exact(direction.double())
    size = float(truth.norm())
    error = float((rough(direction).double() - truth).norm())
    return max(least, error / size) if 0 < size < math.inf and math.isfinite(error) else least


class _SavedBytes:
    """Adds up the storages that a graph saves, each once, the parameters not."""

    def __init__(self, leaves: Sequence[Tensor]) -> None:
        self._seen = {leaf.untyped_storage()._cdata for leaf in leaves}
        self.total = 0

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if is_transient():
            return tensor.detach()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self.total += storage.nbytes()
        # The tensor itself may be the output of the node that saves it: a cycle that nothing would ever free.
        return tensor.detach()

    @staticmethod
    def unpack(tensor: Tensor) -> Tensor:
        return tensor


class _Computed(TorchDispatchMode):
    """Shows a counter the result of every operation."""

    def __init__(self, counter: _SavedBytes) -> None:
        super().__init__()
        self._counter = counter

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._counter.pack(tensor)
        return result


class NoSecondDerivative(LandscapeError):
    """An operation of the network or its loss has no second derivative, so that there is no curvature."""


_ONCE_ALONE = (
    "no second derivative of {}, which the network or its loss uses: measure what needs none (a surface), or put "
    "operations in its place that have one"
)
# How torch says so, and whose derivative it is where the message does not tell.
_ONCE = (
    (re.compile(r"derivative for '?(?:aten::)?_?(\w+?)(?:_backward)?'? is not implemented"), ""),
    (re.compile("once_differentiable"), "an autograd.Function that is once_differentiable"),
    (re.compile("support double backward"), "parts that are compiled"),
)


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Names the operation that torch cannot differentiate a second time."""
    try:
        yield
    except RuntimeError as error:  # NotImplementedError is one
        for pattern, operation in _ONCE:
            if match := pattern.search(str(error)):
                raise NoSecondDerivative(_ONCE_ALONE.format(operation or match[1])) from None
        raise


# Of all functions that `once_differentiable` makes.
_ONCE_CODE = once_differentiable(lambda context: None).__code__


def require_second_derivatives(output: Tensor) -> None:
    """Raise for a function that is marked `once_differentiable`: torch may take its derivative for a constant."""
    waiting, seen = [output.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        function: Any = getattr(type(node), "_forward_cls", None)
        if getattr(getattr(function, "backward", None), "__code__", None) is _ONCE_CODE:
            raise NoSecondDerivative(_ONCE_ALONE.format(f"{function.__name__}, an autograd.Function"))
        waiting += [following for following, _ in node.next_functions]


def _differentiate(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> Sequence[Tensor]:
    """Vector-Jacobian product on a graph that is kept; what does not depend on the inputs gives zeros."""
    pairs = [(output, cotangent) for output, cotangent in zip(outputs, cotangents, strict=True) if output.requires_grad]
    if not pairs:
        return [torch.zeros_like(value) for value in inputs]
    with twice_differentiable():
        return torch.autograd.grad(
            [output for output, _ in pairs],
            inputs,
            [cotangent for _, cotangent in pairs],
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )


@dataclass(frozen=True)
class _Batch:
    """Examples `start` to `stop` of an objective, at some weights."""

    objective: Objective
    leaves: Sequence[Tensor]
    start: int
    stop: int
    sample: int
    statistics: Mapping[str, Tensor]

    def loss(self) -> Tensor:
        """What the examples add to the mean loss."""
        return self.objective.batch_loss(
            self.leaves, self.start, self.stop, sample=self.sample, statistics=self.statistics
        )

    def outputs(self) -> Tensor:
        """The network's outputs for the examples."""
        return self.objective.outputs(
            self.leaves, self.start, self.stop, sample=self.sample, statistics=self.statistics
        )


def _hessian_graph(batch: _Batch) -> Product:
    loss = batch.loss()
    require_second_derivatives(loss)
    gradients = torch.autograd.grad(loss, batch.leaves, create_graph=True, materialize_grads=True)
    return lambda vectors: _differentiate(gradients, batch.leaves, vectors)


def _output_graph(
    batch: _Batch,
) -> tuple[Tensor, Tensor, Callable[[Sequence[Tensor]], Tensor], Callable[[Tensor], Sequence[Tensor]]]:
    """The loss's gradient in the outputs, the outputs that carry that graph, and the maps J v and J' u."""
    objective, leaves = batch.objective, batch.leaves
    outputs = batch.outputs()
    free = outputs.detach().requires_grad_()
    loss = objective.mean_loss(free, batch.start, batch.stop)
    for graph in (outputs, loss):
        require_second_derivatives(graph)
    (loss_gradient,) = torch.autograd.grad(loss, free, create_graph=True)
    dummy = _any_cotangent(outputs)
    pulled = torch.autograd.grad(outputs, leaves, dummy, create_graph=True, materialize_grads=True)

    def push(vectors: Sequence[Tensor]) -> Tensor:
        return _differentiate(pulled, [dummy], vectors)[0]

    def pull(cotangent: Tensor) -> Sequence[Tensor]:
        return _differentiate([outputs], leaves, [cotangent])

    return free, loss_gradient, push, pull


def _any_cotangent(outputs: Tensor) -> Tensor:
    """A u in which J' u, linear in it, is differentiated: that gives J v by reverse mode alone.

    Not zero: the framework computes some products, of ``logcumsumexp`` for one, by way of logarithms of u.
    """
    source = generator(0, "cotangent", device=outputs.device)
    drawn = torch.randn(outputs.shape, generator=source, dtype=outputs.dtype, device=outputs.device)
    return drawn.requires_grad_()


def _deferred_graph(batch: _Batch, kind: Literal["ggn", "fisher"]) -> Product:
    """The same of scores that are never held: they are linear in hidden states, weight and bias of the last layer."""
    objective, leaves = batch.objective, batch.leaves
    with objective.deferring():
        outputs = batch.outputs()
    loss = objective.loss
    assert isinstance(outputs, Deferred)
    assert isinstance(loss, Classification)
    scores, classes = loss.aligned(outputs, objective.labels(batch.start, batch.stop))
    parts = [scores.hidden.flatten(0, -2), scores.weight, scores.bias]
    moving = [index for index, part in enumerate(parts) if part is not None and part.requires_grad]
    sources = [parts[index] for index in moving]
    dummies = [_any_cotangent(part) for part in sources]
    pulled = torch.autograd.grad(sources, leaves, dummies, create_graph=True, materialize_grads=True)

    def product(vectors: Sequence[Tensor]) -> Sequence[Tensor]:
        tangents: list[Tensor | None] = [None, None, None]
        for index, tangent in zip(moving, _differentiate(pulled, dummies, vectors), strict=True):
            tangents[index] = tangent
        moved = scores.curvature(
            classes.flatten(), tangents, kind, ignored=loss.ignored, smoothing=loss.smoothing, scale=1 / objective.terms
        )
        return _differentiate(sources, leaves, [moved[index] for index in moving])

    return product


def _ggn_graph(batch: _Batch) -> Product:
    if batch.objective.defers:
        return _deferred_graph(batch, "ggn")
    free, loss_gradient, push, pull = _output_graph(batch)
    return lambda vectors: pull(_differentiate([loss_gradient], [free], [push(vectors)])[0])


def _fisher_graph(batch: _Batch) -> Product:
    if batch.objective.defers:
        return _deferred_graph(batch, "fisher")
    _, loss_gradient, push, pull = _output_graph(batch)
    residual = loss_gradient.detach()

    def product(vectors: Sequence[Tensor]) -> Sequence[Tensor]:
        # The residuals carry the 1/T of the mean; the outer product needs it once, not twice.
        inner = batch.objective.loss.term_sums(residual * push(vectors)) * batch.objective.terms
        return pull(residual * inner)

    return product


_REFUSED: dict[str, Callable[[Objective], str]] = {
    "hessian": lambda objective: "",
    "ggn": lambda objective: objective.loss.no_gauss_newton or _several(objective),
    "fisher": lambda objective: objective.loss.no_fisher or _several(objective),
}


def _several(objective: Objective) -> str:
    return "it is of several outputs" if objective.protocol.output == "all" else ""


_GRAPHS: dict[str, Callable[[_Batch], Product]] = {
    "hessian": _hessian_graph,
    "ggn": _ggn_graph,
    "fisher": _fisher_graph,
}
