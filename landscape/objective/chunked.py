r"""Cross-entropy over a large vocabulary that never holds scores of all tokens, nor in its second derivative.

A language model's scores (tokens x vocabulary) are larger than everything else together: 512 tokens of 50,000 words
are 100 MB, and a Hessian-vector product needs several such tensors. Here the last linear layer and the loss are one
function of the hidden states *h*, the weights *W* and the bias *b*, whose derivatives are written down. With
:math:`z = W h + b`, :math:`p = \mathrm{softmax}(z)` and target distribution *q*,

.. math:: \nabla_z \ell = p - q, \qquad \nabla_z^2 \ell\, t = p \circ (t - p^\top t),

computed for some tokens at a time, anew in every product. That costs seven products of the layer's size where autograd
with kept scores needs six.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from landscape.objective.folding import StandIn

# Bytes of the scores that are held at a time, and the fewest tokens that keep a matrix product busy.
_CHUNK_BYTES = 16 * 2**20
_FEWEST = 64
# Smaller vocabularies gain nothing.
SMALLEST = 4096

_deferring: ContextVar[bool] = ContextVar("deferring", default=False)


@contextmanager
def deferring() -> Iterator[None]:
    """Within it, a `DeferredHead` returns `Deferred` scores."""
    token = _deferring.set(True)
    try:
        yield
    finally:
        _deferring.reset(token)


class DeferredHead(StandIn):
    """A last linear layer that leaves its product to the loss, within `deferring`."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        self.linear = linear

    def forward(self, hidden: Tensor) -> Any:
        """Scores (..., V), or the `Deferred` ones."""
        if _deferring.get():
            return Deferred(hidden, self.linear.weight, self.linear.bias)
        return functional.linear(hidden, self.linear.weight, self.linear.bias)


class Deferred:
    """Scores (..., V) of a linear layer that have not been computed.

    Parameters
    ----------
    hidden, weight, bias
        (..., d), (V, d), and (V,) or None.
    """

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        self.hidden, self.weight, self.bias = hidden, weight, bias
        self.shape = torch.Size([*hidden.shape[:-1], len(weight)])

    def __getitem__(self, rows: Any) -> "Deferred":
        """Some of the tokens."""
        return Deferred(self.hidden[rows], self.weight, self.bias)

    def cross_entropy(self, classes: Tensor, *, ignored: int, smoothing: float = 0.0) -> Tensor:
        """Sum of the cross-entropies over all tokens that count; twice differentiable."""
        total: Tensor = _CrossEntropy.apply(
            self.hidden.flatten(0, -2), self.weight, self.bias, classes.flatten(), ignored, smoothing
        )
        return total

    @torch.no_grad()
    def losses(self, classes: Tensor, *, ignored: int, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy of each token, float64, zero where it is ignored, in the shape of the classes."""
        hidden, flat = self.hidden.flatten(0, -2), classes.flatten()
        losses = torch.empty(len(flat), dtype=torch.float64, device=hidden.device)
        for rows in _chunks(len(flat), self.weight):
            scores = functional.linear(hidden[rows], self.weight, self.bias).double()
            losses[rows] = functional.cross_entropy(
                scores, flat[rows], ignore_index=ignored, label_smoothing=smoothing, reduction="none"
            )
        return losses.view(classes.shape)

    @torch.no_grad()
    def curvature(
        self,
        classes: Tensor,
        tangents: Sequence[Tensor | None],
        kind: Literal["ggn", "fisher"],
        *,
        ignored: int,
        smoothing: float,
        scale: float,
    ) -> list[Tensor]:
        r"""Product of the loss's Gauss-Newton or empirical Fisher matrix in (hidden, weight, bias) with a tangent.

        With :math:`t` what the tangent moves the scores by, :math:`u = p \circ (t - p^\top t)` for the Gauss-Newton
        matrix and :math:`u = (p - q) (p - q)^\top t` for Fisher's, pulled back to hidden states, weight and bias.

        Parameters
        ----------
        classes
            (T,).
        tangents
            Of hidden states (T, d), weight (V, d) and bias (V,), or None for what does not move.
        kind
            Which matrix.
        ignored, smoothing
            As in `cross_entropy`.
        scale
            Factor of every token: one over the number of terms.
        """
        hidden = self.hidden.flatten(0, -2)
        of_hidden, of_weight, of_bias = _targets(hidden, self.weight, self.bias, (True, True, True))
        for rows in _chunks(len(classes), self.weight):
            probabilities = functional.linear(hidden[rows], self.weight, self.bias).softmax(-1)
            moved = _moved(hidden[rows], self.weight, rows, tangents)
            if moved is None:
                continue
            if kind == "ggn":
                mean = torch.einsum("tv,tv->t", probabilities, moved)[:, None]
                bent = (moved - mean).mul_(probabilities).mul_((classes[rows] != ignored)[:, None])
            else:
                residual = _residual(probabilities, classes[rows], ignored, smoothing)
                bent = residual * torch.einsum("tv,tv->t", residual, moved)[:, None]
            _add(of_hidden, of_weight, of_bias, rows, bent.mul_(scale), hidden, self.weight)
        return [of_hidden, of_weight, of_bias]  # type: ignore[list-item]

    @torch.no_grad()
    def right(self, classes: Tensor) -> tuple[Tensor, Tensor]:
        """How many tokens have their class as the highest score, and how many have finite scores; hidden (T, d)."""
        right, finite = (torch.zeros((), dtype=torch.int64, device=self.hidden.device) for _ in range(2))
        for rows in _chunks(len(classes), self.weight):
            scores = functional.linear(self.hidden[rows], self.weight, self.bias)
            right += (scores.argmax(1) == classes[rows]).sum()
            finite += scores.isfinite().all(1).sum()
        return right, finite


def _chunks(tokens: int, weight: Tensor) -> Iterator[slice]:
    rows = max(_FEWEST, _CHUNK_BYTES // (len(weight) * weight.element_size()))
    for start in range(0, tokens, rows):
        yield slice(start, min(start + rows, tokens))


def _moved(hidden: Tensor, weight: Tensor, rows: slice, tangents: Sequence[Tensor | None]) -> Tensor | None:
    """What tangents of hidden states, weight and bias move some tokens' scores by."""
    hidden_tangent, weight_tangent, bias_tangent = tangents
    tangent: Tensor | None = None
    if hidden_tangent is not None:
        tangent = functional.linear(hidden_tangent[rows], weight)
    if weight_tangent is not None:
        second = functional.linear(hidden, weight_tangent)
        tangent = second if tangent is None else tangent.add_(second)
    if bias_tangent is not None:
        tangent = bias_tangent.expand(len(hidden), -1).clone() if tangent is None else tangent.add_(bias_tangent)
    return tangent


def _residual(probabilities: Tensor, classes: Tensor, ignored: int, smoothing: float) -> Tensor:
    """Probabilities less target distribution, zero where a token is ignored; `probabilities` is overwritten."""
    valid = classes != ignored
    known = classes.where(valid, 0)[:, None]  # what is ignored may be beyond the classes
    if smoothing:
        probabilities -= smoothing / probabilities.shape[1]
    probabilities.scatter_add_(1, known, probabilities.new_full((1, 1), smoothing - 1).expand_as(known))
    return probabilities.mul_(valid[:, None])


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, classes: Tensor, ignored: int, smoothing: float
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, bias, classes)
        ctx.settings = (ignored, smoothing)
        total = hidden.new_zeros(())
        for rows in _chunks(len(hidden), weight):
            scores = functional.linear(hidden[rows], weight, bias)
            total += functional.cross_entropy(
                scores, classes[rows], ignore_index=ignored, label_smoothing=smoothing, reduction="sum"
            )
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, bias, classes = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        gradients = _Gradient.apply(gradient, hidden, weight, bias, classes, ctx.settings, wanted)
        return (*gradients, None, None, None)


class _Gradient(torch.autograd.Function):
    """Gradients in hidden states, weight and bias, differentiable once more."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        gradient: Tensor,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        classes: Tensor,
        settings: tuple[int, float],
        wanted: tuple[bool, ...],
    ) -> tuple[Tensor | None, ...]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(gradient, hidden, weight, bias, classes)
        ctx.settings = settings
        of_hidden, of_weight, of_bias = _targets(hidden, weight, bias, wanted)
        for rows in _chunks(len(hidden), weight):
            scores = functional.linear(hidden[rows], weight, bias)
            residual = _residual(scores.softmax(-1), classes[rows], *settings).mul_(gradient)
            _add(of_hidden, of_weight, of_bias, rows, residual, hidden, weight)
        return of_hidden, of_weight, of_bias

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, hidden_tangent: Tensor | None, weight_tangent: Tensor | None, bias_tangent: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        gradient, hidden, weight, bias, classes = ctx.saved_tensors
        of_hidden, of_weight, of_bias = _targets(hidden, weight, bias, ctx.needs_input_grad[1:4])
        of_gradient = torch.zeros_like(gradient) if ctx.needs_input_grad[0] else None
        for rows in _chunks(len(hidden), weight):
            probabilities = functional.linear(hidden[rows], weight, bias).softmax(-1)
            tangent = _moved(hidden[rows], weight, rows, (hidden_tangent, weight_tangent, bias_tangent))
            if tangent is None:
                continue
            valid = (classes[rows] != ctx.settings[0])[:, None]
            mean = torch.einsum("tv,tv->t", probabilities, tangent)[:, None]
            bent = (tangent - mean).mul_(probabilities).mul_(valid).mul_(gradient)
            residual = _residual(probabilities, classes[rows], *ctx.settings)
            if of_gradient is not None:
                of_gradient += (residual * tangent).sum()
            _add(of_hidden, of_weight, of_bias, rows, bent, hidden, weight)
            residual.mul_(gradient)
            if of_hidden is not None and weight_tangent is not None:
                of_hidden[rows] += residual @ weight_tangent
            if of_weight is not None and hidden_tangent is not None:
                of_weight.addmm_(residual.T, hidden_tangent[rows])
        return of_gradient, of_hidden, of_weight, of_bias, None, None, None


def _targets(hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted: tuple[bool, ...]) -> list[Tensor | None]:
    return [
        torch.zeros_like(value) if want and value is not None else None
        for value, want in zip((hidden, weight, bias), wanted, strict=True)
    ]


def _add(
    of_hidden: Tensor | None,
    of_weight: Tensor | None,
    of_bias: Tensor | None,
    rows: slice,
    of_scores: Tensor,
    hidden: Tensor,
    weight: Tensor,
) -> None:
    """Add what a gradient in some tokens' scores is in hidden states, weight and bias."""
    if of_hidden is not None:
        of_hidden[rows] = of_scores @ weight
    if of_weight is not None:
        of_weight.addmm_(of_scores.T, hidden[rows])
    if of_bias is not None:
        of_bias += of_scores.sum(0)
