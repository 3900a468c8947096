r"""Curvature in activations: the Hessian of each example's loss in a feature map, at a point of the network.

.. math:: H_n = \frac{\partial^2 \ell_n}{\partial h_n^2}, \qquad h_n \text{ the output of a named module for example } n
"""

import difflib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray
from torch import Tensor, nn

from landscape import tables
from landscape.compute.progress import Progress
from landscape.compute.settings import math_attention, measurement
from landscape.eigen import SymmetricOperator, eigenpairs, trace
from landscape.errors import LandscapeError
from landscape.objective import Objective, folding
from landscape.objective.convolution import CheapDoubleBackward
from landscape.objective.operators import require_second_derivatives, twice_differentiable


class ActivationOperator(SymmetricOperator):
    """Hessian of one example's loss in the output of a module, as an operator on flat vectors (d,) or (d, k).

    Parameters
    ----------
    objective
        The function whose loss is differentiated, at the network's own weights.
    at
        Name of the module, as ``named_modules`` has it. Of several outputs, the first tensor counts.
    example
        Index of the example.
    module
        The objective's private copy of the network, where several operators share one.

    Attributes
    ----------
    map_shape
        Shape of the feature map, without the example's dimension.
    gradient
        Of the loss in the feature map, flat (d,).

    Raises
    ------
    LandscapeError
        When there is no such module, it is not called or more than once, or returns no floating-point tensor, or
        when something behind it has no second derivative.
    """

    @measurement
    def __init__(self, objective: Objective, at: str, example: int, *, module: nn.Module | None = None) -> None:
        module = objective.private_module() if module is None else module
        self.dtype, self.device = objective.dtype, objective.device
        shifts: list[Tensor] = []

        part = _named(module, at)
        factor: Tensor | float = 1.0
        if isinstance(part, folding.FoldedConvolution):
            # Its output here is that of the batch norm behind it, which scales what the convolution's is moved by.
            scale = folding.scale_and_shift(part.norm)[0]
            factor = scale.view([-1] + [1] * (part.convolution.weight.dim() - 2))

        def shift(_: nn.Module, arguments: Any, output: Any) -> Any:
            return _shifted(output, shifts, factor)

        handle = part.register_forward_hook(shift)
        try:
            with torch.enable_grad(), CheapDoubleBackward(), math_attention, twice_differentiable():
                inputs = objective.batch(example, example + 1)
                fraction = objective.fraction(example, example + 1)
                loss = objective.batch_loss_of(module, inputs, example, example + 1)
                if len(shifts) != 1:
                    calls = "not called" if not shifts else f"called {len(shifts)} times"
                    raise LandscapeError(
                        f"--at {at}: the module is {calls} in a forward pass: name one that is called once"
                    )
                self._map = shifts[0]
                loss = loss / fraction if fraction else loss
                require_second_derivatives(loss)
                (gradient,) = torch.autograd.grad(loss, self._map, create_graph=True, materialize_grads=True)
        finally:
            handle.remove()
        self._gradient = gradient
        self.gradient = gradient.detach().flatten()
        self.map_shape = tuple(self._map.shape[1:])
        self.size = self._map.numel()

    @measurement
    def __call__(self, vectors: Tensor) -> Tensor:
        """Multiply a vector (d,) or columns (d, k)."""
        if vectors.dim() == 1:
            return self._product(vectors)
        return torch.stack([self._product(column) for column in vectors.T], dim=1)

    def _product(self, vector: Tensor) -> Tensor:
        if not self._gradient.requires_grad:
            return torch.zeros_like(vector)
        with math_attention, twice_differentiable():
            (gradient,) = torch.autograd.grad(
                self._gradient, self._map, vector.view_as(self._map), retain_graph=True, materialize_grads=True
            )
        return gradient.flatten()


def _named(module: nn.Module, at: str) -> nn.Module:
    parts = dict(module.named_modules())
    if at not in parts or not at:
        near = ", ".join(difflib.get_close_matches(at, parts, n=3) or [name for name in parts if name][:5])
        raise LandscapeError(f"--at {at}: the network has no such module: give one of its names, such as {near}")
    return parts[at]


def _shifted(output: Any, shifts: list[Tensor], factor: Tensor | float) -> Any:
    """The output with a leaf of zeros, times `factor`, added to its first tensor; the leaf is appended to `shifts`."""
    if isinstance(output, Tensor):
        if not output.is_floating_point():
            raise LandscapeError("--at names a module that returns whole numbers: name one that returns features")
        shifts.append(torch.zeros_like(output, requires_grad=True))
        return output.detach() + factor * shifts[-1]
    if isinstance(output, (tuple, list)) and output:
        return type(output)([_shifted(output[0], shifts, factor), *output[1:]])
    if isinstance(output, dict) and output:
        first = next(iter(output))
        output[first] = _shifted(output[first], shifts, factor)
        return output
    raise LandscapeError(f"--at names a module that returns a {type(output).__name__}: name one that returns a tensor")


_LABELS = {
    "eigenvalue": "eigenvalue in the activation",
    "residual": "bound |lambda - eigenvalue|",
    "trace": "trace in the activation",
    "trace_stderr": "standard error of the trace",
    "gradient_norm": "norm of the gradient in the activation",
}


@measurement
def activation_curvature(
    objective: Objective,
    at: str,
    *,
    top: int = 3,
    examples: int = 16,
    tolerance: float = 1e-3,
    trace_products: int = 20,
    seed: int = 0,
    quiet: bool = True,
) -> xarray.Dataset:
    """Top eigenvalues and trace of the Hessian in activations, example by example.

    Parameters
    ----------
    objective
        The function: its network, loss and examples.
    at
        Name of the module whose output is the activation.
    top
        Eigenvalues per example.
    examples
        Number of the objective's examples, from the first on.
    tolerance
        Relative error of the eigenvalues.
    trace_products
        Products spent on each trace.
    seed
        Of starting vectors and probes.
    quiet
        No progress bar.

    Returns
    -------
    xarray.Dataset
        Over ``example``: ``eigenvalue`` (example, rank) with ``residual``, the true eigenvalue lies within it; not a
        number where the activation has fewer; ``trace`` with ``trace_stderr``; ``gradient_norm``, the length of the
        loss's gradient in the activation.

    Raises
    ------
    LandscapeError
        As `ActivationOperator`.
    """
    count = min(examples, objective.images)
    module = objective.private_module()
    values = {name: np.full((count, top) if name in ("eigenvalue", "residual") else count, np.nan) for name in _LABELS}
    products = 0
    shape: tuple[int, ...] = ()
    with Progress(count, f"curvature at {at}", unit="example", quiet=quiet) as bar:
        for example in range(count):
            operator = ActivationOperator(objective, at, example, module=module)
            shape = operator.map_shape
            pairs = eigenpairs(operator, min(top, operator.size), tolerance=tolerance, seed=seed, keep_space=True)
            estimate = trace(operator, products=trace_products, seed=seed, space=pairs.space)
            known = slice(len(pairs.values))
            values["eigenvalue"][example, known], values["residual"][example, known] = pairs.values, pairs.residuals
            values["trace"][example], values["trace_stderr"][example] = estimate.value, estimate.stderr
            values["gradient_norm"][example] = float(operator.gradient.norm())
            products += pairs.products + estimate.products
            bar.update()
    return xarray.Dataset(
        {
            name: (("example", "rank")[: value.ndim], value, {"long_name": _LABELS[name], "units": objective.loss.unit})
            for name, value in values.items()
        },
        {"example": np.arange(count), "rank": np.arange(1, top + 1)},
        attrs={
            "operator": "Hessian of each example's loss in the activation",
            "at": at,
            "shape": "x".join(map(str, shape)),
            "products": products,
            "parameters": int(np.prod(shape)),
            "images": count,
        },
    )


def cost(objective: Objective, at: str, *, examples: int, **settings: Any) -> str:
    """What `activation_curvature` will cost, estimated from the first example."""
    started = time.perf_counter()
    first = activation_curvature(objective, at, examples=1, **settings)
    seconds, count = time.perf_counter() - started, min(examples, objective.images)
    products = int(first.attrs["products"])
    return (
        f"activation {at} ({first.attrs['shape']}), {count} {objective.kind_of_examples}; about {count * products} "
        f"products of {seconds / products:.2g} s, {count * seconds:.0f} s in all, from the {products} of the first "
        "example; the graph of one example is kept at a time"
    )


def table(results: Sequence[xarray.Dataset]) -> str:
    """Quartiles over examples, one column per network."""

    def row(label: str, name: str) -> tables.Row:
        def quartiles(result: xarray.Dataset) -> str:
            value = result[name].isel(rank=0) if "rank" in result[name].dims else result[name]
            return " ".join(f"{quartile:.4g}" for quartile in np.quantile(value.values, [0.25, 0.5, 0.75]))

        return f"{label}, quartiles over examples", quartiles

    rows: list[tables.Row] = [
        row("largest eigenvalue", "eigenvalue"),
        row("trace", "trace"),
        row("norm of the gradient", "gradient_norm"),
        ("examples", lambda result: str(result.sizes["example"])),
        ("activation", lambda result: f"{result.attrs['at']} ({result.attrs['shape']})"),
    ]
    return tables.side_by_side(results, rows)
