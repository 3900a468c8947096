"""Invariants of loss, gradient and curvature products that hold exactly, on the user's own network.

In float64, so that rounding hides nothing, except where the measured precision itself is checked.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from landscape.compute.randomness import generator
from landscape.compute.settings import math_attention, measurement
from landscape.objective import CurvatureOperator, Objective
from landscape.objective.network import ALL, in_precision, private_copy, ranges, unwrapped
from landscape.objective.second_derivatives import SecondDerivatives
from landscape.selfcheck.check import Check, relative

# The plain graph of these is held whole, in float64.
_PLAIN_IMAGES = 16
# Steps of a difference, in lengths of a typical weight. A short step crosses no kink and has no curvature of its own to
# see, a long one stands clear of rounding; which of them does both differs from network to network.
_STEPS = (1e-5, 1e-6, 1e-7, 1e-8, 1e-4, 1e-9, 1e-3)
# How far from the weights the same is looked at again when it does not settle there: weights can lie exactly on a kink
# (biases that are still zero, under images with black borders), and there is no derivative to compare with.
_OFFSETS = (0.0, 1e-3, 1e-2)
# Largest rounding of a product that still tells one network from another.
_ROUNDING = 1e-2


@measurement
def curvature_checks(objective: Objective, decayed: Objective, exact: Objective, *, seed: int = 0) -> list[Check]:
    """Invariants of an objective's value, gradient and curvature products.

    Parameters
    ----------
    objective
        The function to check.
    decayed
        The same with its weight decay larger by one.
    exact
        The same in float64.
    seed
        Seed of the probe vectors.
    """
    return [
        *_repeats(objective, exact, seed),
        _by_example(exact),
        *_differences(exact, seed),
        _rounding(objective, exact, seed),
        *_decay(objective, decayed, seed),
    ]


def _repeats(objective: Objective, exact: Objective, seed: int) -> Iterator[Check]:
    """The product twice, and its symmetry."""
    precision = torch.finfo(objective.dtype).eps
    first = _unit(objective, seed, 0)
    image, again = (CurvatureOperator(objective)(first) for _ in range(2))
    yield Check(
        "the same product twice",
        relative(float((image - again).norm()), float(image.norm())),
        100 * precision,
        "masks, statistics or the network change from product to product",
    )
    first, second = _unit(exact, seed, 0), _unit(exact, seed, 1)
    operator = CurvatureOperator(exact)
    image, other = operator(first), operator(second)
    yield Check(
        "symmetry: |u.Hv - v.Hu| / |Hv| (float64)",
        relative(abs(float(second @ image - first @ other)), max(float(image.norm()), float(other.norm()))),
        1e-9,
        "the product is not that of a Hessian",
    )


def _by_example(exact: Objective) -> Check:
    """Outputs of a few examples at once, and one by one."""
    weights = exact.weights()
    stop = min(exact.images, 4)

    def outputs(start: int, end: int) -> Tensor:
        if exact.protocol.output == ALL or exact.loss.needs_network:
            return exact.example_losses_at(weights, start, end)
        with torch.no_grad():
            return exact.outputs(weights.parameters, start, end, statistics=weights.statistics)

    together = outputs(0, stop)
    single = torch.cat([outputs(index, index + 1) for index in range(stop)])
    # Statistics of each batch are what that protocol asks for.
    mixes = exact.protocol.batch_norm == "batch"
    return Check(
        "outputs of examples together and one by one (float64)",
        0.0 if mixes else relative(float((together - single).norm()), float(together.norm())),
        1e-9,
        "the network mixes the examples of a batch: what it gives depends on --batch",
    )


def _differences(exact: Objective, seed: int) -> Iterator[Check]:
    """Gradient against differences of the loss, product against differences of the gradient."""
    # Statistics that are measured anew at every point are held: that is how derivatives are defined here.
    exact = exact.holding_statistics()
    length = _typical(exact)

    def slope(point: Tensor, direction: Tensor, gradient: Tensor) -> Callable[[float], float]:
        along = float(gradient @ direction)

        def off(step: float) -> float:
            ahead, behind = (exact.value(point + sign * step * direction).loss for sign in (1, -1))
            return relative(abs((ahead - behind) / (2 * step) - along), abs(along))

        return off

    def bend(point: Tensor, direction: Tensor, gradient: Tensor) -> Callable[[float], float]:
        along = CurvatureOperator(exact, point=point)(direction)

        def off(step: float) -> float:
            ahead, behind = (exact.gradient(point + sign * step * direction) for sign in (1, -1))
            return relative(float(((ahead - behind) / (2 * step) - along).norm()), float(along.norm()))

        return off

    for name, judge, allowed, meaning in (
        ("gradient against differences of the loss (float64)", slope, 1e-4, "the gradient is not the loss's"),
        ("product against differences of the gradient (float64)", bend, 1e-4, "the product is not the gradient's"),
    ):
        best = math.inf
        for point in _nearby(exact, seed):
            gradient = exact.gradient(point)
            off = judge(point, _along_gradient(exact, gradient, seed), gradient)
            for step in _STEPS:
                found = off(step * length)
                best = found if math.isnan(best) else min(best, found)
                if best <= allowed:
                    break
            if best <= allowed:
                break
        yield Check(name, best, allowed, f"{meaning}, at any step and near these weights")


def _rounding(objective: Objective, exact: Objective, seed: int) -> Check:
    best = math.inf
    for point in _nearby(exact, seed):
        # What float32 holds of the point and the direction is what both are given.
        point = point.to(objective.dtype)
        direction = _along_gradient(exact, exact.gradient(point.double()), seed).to(objective.dtype)
        along = CurvatureOperator(exact, point=point.double())(direction.double())
        off = CurvatureOperator(objective, point=point)(direction).double() - along
        best = min(best, relative(float(off.norm()), float(along.norm())))
        if best <= _ROUNDING:
            break
    return Check(
        f"rounding of a product in {objective.protocol.dtype}",
        best,
        _ROUNDING,
        "this precision does not carry the curvature: measure with --dtype float64",
    )


def _decay(objective: Objective, decayed: Objective, seed: int) -> Iterator[Check]:
    if objective.protocol.l2 != "exact":
        return
    first = _unit(objective, seed, 0)
    image = CurvatureOperator(objective)(first)
    shifted = CurvatureOperator(decayed)(first) - image
    scale = max(1.0, float(image.norm()))
    yield Check(
        "weight decay 1 shifts H by exactly 1",
        float((shifted - first).norm()),
        1e3 * torch.finfo(objective.dtype).eps * scale,
        "the L2 term is not what it says",
    )
    # Frozen and unused parameters decay, too, but are not coordinates.
    rise = decayed.value().l2 - objective.value().l2
    trainable = objective.l2.tensors(objective.weights().parameters)
    squares = sum(float(value.double().square().sum()) for value in trainable)
    yield Check(
        "weight decay 1 raises the loss by |w|^2 / 2",
        relative(abs(rise - squares / 2), max(squares / 2, objective.value().l2)),
        1e3 * torch.finfo(objective.dtype).eps,
        "the L2 term is not what it says",
    )


@measurement
def plain_checks(model: nn.Module, exact: Objective, *, seed: int = 0) -> list[Check]:
    """Loss and product, batch norm folded and convolutions differentiated our way, against the plain network's.

    Parameters
    ----------
    model
        The network as it was loaded.
    exact
        Its objective in float64; nothing is checked unless batch norm uses running statistics, since the plain network
        knows no other way in evaluation mode.
    seed
        Seed of the probe vector.
    """
    if exact.protocol.batch_norm != "running":
        return []
    plain = in_precision(private_copy(unwrapped(model)), torch.float64, exact.device).eval()
    exact.network.drop_alike(plain)
    parameters = dict(plain.named_parameters())

    def loss(start: int, stop: int) -> Tensor:
        return exact.batch_loss_of(plain, exact.data.batch(start, stop, dtype=torch.float64), start, stop)

    # With gradients: a loss may differentiate in the inputs.
    with torch.enable_grad():
        bounds = ranges(exact.first, exact.last, _PLAIN_IMAGES)
        total = sum(float(loss(start, stop).detach()) for start, stop in bounds)
    plainly = float(exact.reduced(torch.tensor(total, dtype=torch.float64, device=exact.device)))
    value = exact.value().data_loss
    checks = [
        Check(
            "loss against the plain network's (float64)",
            relative(abs(value - plainly), max(abs(plainly), 1e-3)),
            1e-8,
            "examples are missing, weighed wrongly, or the network is not what it was: please report it",
        )
    ]
    vector = _unit(exact, seed, 2)
    start, stop = exact.first, min(exact.last, exact.first + _PLAIN_IMAGES)
    best = math.inf
    for point in _nearby(exact, seed):
        with torch.no_grad():
            for name, value_there in exact.in_network(exact.space.split(point)).items():
                parameters[name].copy_(value_there)
        wanted = [parameters[name] for name in exact.names]
        # Beside ours, the only kernels whose second derivatives exist and are right.
        with math_attention, SecondDerivatives(), torch.enable_grad():
            mean = loss(start, stop) / exact.fraction(start, stop)
            gradients = torch.autograd.grad(mean, wanted, create_graph=True, materialize_grads=True)
            along = list(exact.in_network(exact.space.split(vector)).values())
            rows = torch.autograd.grad(gradients, wanted, along, materialize_grads=True)
        truth = exact.space.flatten(rows)
        ours = CurvatureOperator(exact, point=point, first=start, last=stop)(vector)
        ours = ours - exact.l2.product(exact.space.split(point), vector[:, None]).squeeze(-1)
        best = min(best, relative(float((ours - truth).norm()), float(truth.norm())))
        if best <= 1e-8:
            break
    checks.append(
        Check(
            "product against plain double backward (float64)",
            best,
            1e-8,
            "folding or our convolutions are wrong for this network: please report it",
        )
    )
    return checks


def _typical(objective: Objective) -> float:
    """Length of a typical weight, at least one."""
    return max(1.0, float(objective.point.norm()) / math.sqrt(objective.size))


def _nearby(exact: Objective, seed: int) -> Iterator[Tensor]:
    """The network's own point, and others a little away."""
    for offset in _OFFSETS:
        yield exact.point + offset * _typical(exact) * math.sqrt(exact.size) * _unit(exact, seed, 3)


def _along_gradient(objective: Objective, gradient: Tensor, seed: int) -> Tensor:
    """The gradient's direction, where everything stands clear of rounding; another one where there is none."""
    size = float(gradient.norm())
    return gradient / size if 0 < size < math.inf else _unit(objective, seed, 4)


def _unit(objective: Objective, seed: int, index: int) -> Tensor:
    vector = torch.randn(objective.size, generator=generator(seed, "selfcheck", index), dtype=objective.dtype)
    return (vector / vector.norm()).to(objective.device)
