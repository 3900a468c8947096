r"""What an optimizer's state says about stability: preconditioner, learning rate, momentum, weight decay.

Gradient descent with a preconditioner *P*, :math:`w \leftarrow w - \eta P^{-1} g`, is stable on a quadratic as long as
the largest eigenvalue of :math:`P^{-1/2} H P^{-1/2}` is below a threshold that depends on the learning rate and the
momentum alone (Cohen et al. 2021, arXiv 2103.00065; 2022, arXiv 2207.14484).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import ASGD, SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop

from landscape.objective.parameters import in_pairs

# Weight decay that is part of the loss: w enters the gradient. AdamW's is not.
_COUPLED = (SGD, Adam, AdamW, RMSprop, Adagrad, NAdam, RAdam, Adamax, Adadelta, ASGD)


@dataclass(frozen=True)
class State:
    """An optimizer at one moment, in the coordinates of a flat parameter vector.

    Attributes
    ----------
    learning_rate
        The largest of all groups, NaN without an optimizer.
    threshold
        Stability threshold of the preconditioned sharpness: ``2 / lr`` for plain gradient descent, ``2 (1 + m) / lr``
        with heavy-ball momentum *m*, ``2 (1 + m) / ((1 + 2 m) lr)`` with Nesterov's, ``(2 + 2 b1) / ((1 - b1) lr)`` for
        Adam. NaN for an optimizer that is not known.
    scale
        Diagonal (P,) of :math:`P^{-1/2}`, learning rates of groups relative to the largest included; None when it is 1
        everywhere, or unknown.
    preconditioned
        Whether `scale` is known.
    decay
        Weight decay that is part of the loss: one number, or (P,) when groups differ.
    radius, adaptive
        Of a SAM-like optimizer, or None.
    momentum
        Whether there is any.
    """

    learning_rate: float
    threshold: float
    scale: Tensor | None
    preconditioned: bool
    decay: float | Tensor
    radius: float | None
    adaptive: bool
    momentum: bool


def read(
    optimizer: Any, network: nn.Module, names: list[str], sizes: list[int], device: torch.device, dtype: torch.dtype
) -> State:
    """The state of an optimizer, only read.

    Parameters
    ----------
    optimizer
        Of torch, or a wrapper with ``base_optimizer`` (SAM and its kin), ``optimizer`` (Accelerate, Lookahead) or
        ``param_groups`` alone; None for none.
    network
        Whose parameters it updates.
    names, sizes
        The parameters that are coordinates, in order.
    device, dtype
        Of the returned vectors.
    """
    if optimizer is None:
        return State(math.nan, math.nan, None, False, 0.0, None, False, False)
    base = _base(optimizer)
    groups = base.param_groups
    # Some set their own learning rate, and have none in their groups.
    rates = [math.nan if group.get("lr") is None else float(group["lr"]) for group in groups]
    largest = max(rates)
    of_parameter = {id(parameter): group for group in groups for parameter in group["params"]}
    parameters = dict(network.named_parameters())
    radius, adaptive = _radius(optimizer)
    thresholds = {_threshold(base, group, largest) for group in groups}
    threshold = thresholds.pop() if len(thresholds) == 1 else math.nan
    inverse, decay = [], []
    known = math.isfinite(threshold)
    for name, size in zip(names, sizes, strict=True):
        parameter = parameters[name]
        group = of_parameter.get(id(parameter))
        rate = 0.0 if group is None else float(group["lr"]) / largest if largest > 0 else 1.0
        step = None if group is None or rate == 0 else _inverse(base, group, parameter)
        known = known and (step is not None or rate == 0)
        flat = torch.full((size,), rate, dtype=dtype, device=device)
        inverse.append(flat if step is None else flat * step.reshape(-1).to(flat))
        coupled = group is not None and _coupled(base, group)
        decay.append(torch.full_like(flat, float(group.get("weight_decay", 0.0)) if group and coupled else 0.0))
    product = torch.cat(inverse)
    shifts = torch.cat(decay)
    uniform = bool((shifts == shifts[0]).all())
    return State(
        learning_rate=largest,
        threshold=threshold,
        scale=None if not known or bool((product == 1).all()) else product.sqrt(),
        preconditioned=known,
        decay=float(shifts[0]) if uniform else shifts,
        radius=radius,
        adaptive=adaptive,
        momentum=any(_momentum(group) > 0 for group in groups),
    )


def further_solves(optimizer: Any) -> int:
    """Eigenvalues that an optimizer makes worth measuring: with its preconditioner, and where SAM looks."""
    if optimizer is None:
        return 0
    base = _base(optimizer)
    scaled = isinstance(base, (Adam, AdamW, RMSprop, Adagrad)) or len({group["lr"] for group in base.param_groups}) > 1
    return int(scaled) + int(_radius(optimizer)[0] is not None)


def _base(optimizer: Any) -> Any:
    """The optimizer that takes the steps, inside wrappers."""
    seen: set[int] = set()
    while id(optimizer) not in seen:
        seen.add(id(optimizer))
        inner = getattr(optimizer, "base_optimizer", None) or getattr(optimizer, "optimizer", None)
        if inner is None or not hasattr(inner, "param_groups"):
            return optimizer
        optimizer = inner
    return optimizer


def _radius(optimizer: Any) -> tuple[float | None, bool]:
    groups = getattr(optimizer, "param_groups", [{}])
    radius = groups[0].get("rho", getattr(optimizer, "rho", None))
    # RMSprop-like optimizers of torch call other things rho.
    if not isinstance(radius, (int, float)) or type(optimizer).__module__.startswith("torch.optim"):
        return None, False
    return float(radius), bool(groups[0].get("adaptive", getattr(optimizer, "adaptive", False)))


def _momentum(group: dict[str, Any]) -> float:
    return float(group["betas"][0] if "betas" in group else group.get("momentum", 0.0))


def _coupled(base: Optimizer, group: dict[str, Any]) -> bool:
    decoupled = group.get("decoupled_weight_decay", isinstance(base, AdamW))
    return isinstance(base, _COUPLED) and not decoupled


def _threshold(base: Optimizer, group: dict[str, Any], rate: float) -> float:
    if rate <= 0:
        return math.inf
    momentum = _momentum(group)
    if isinstance(base, (Adam, AdamW)):
        return (2 + 2 * momentum) / ((1 - momentum) * rate)
    if isinstance(base, SGD):
        if group.get("nesterov"):
            return (2 + 2 * momentum) / ((1 + 2 * momentum) * rate)
        # Without momentum there is no running mean whose entries could be dampened.
        dampening = float(group.get("dampening", 0.0)) if momentum else 0.0
        return (2 + 2 * momentum) / ((1 - dampening) * rate)
    if isinstance(base, (RMSprop, Adagrad)):
        return (2 + 2 * momentum) / rate
    return math.nan


def _inverse(base: Optimizer, group: dict[str, Any], parameter: Tensor) -> Tensor | None:
    """1 / P of one parameter, None when it is not known (before the first step, or for other optimizers)."""
    state = base.state.get(parameter, {})

    def entry(name: str) -> Tensor:
        return in_pairs(state[name]).float()

    with torch.no_grad():
        if isinstance(base, (Adam, AdamW)):
            if "exp_avg_sq" not in state:
                return None
            count = float(state["step"])
            first, second = (float(beta) for beta in group["betas"])
            squares = entry("max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq")
            root = (squares / (1 - second**count)).sqrt() + group["eps"]
            # The bias correction of the first moment is part of the step's size (Cohen et al. 2022, section 2).
            return 1 / ((1 - first**count) * root)
        if isinstance(base, RMSprop):
            if "square_avg" not in state:
                return None
            squares = entry("square_avg")
            if group.get("centered"):
                squares = (squares - entry("grad_avg").square()).clamp(min=0)
            return 1 / (squares.sqrt() + group["eps"])
        if isinstance(base, Adagrad):
            if "sum" not in state:
                return None
            decayed = 1 + max(float(state["step"]) - 1, 0) * group["lr_decay"]
            return 1 / (decayed * (entry("sum").sqrt() + group["eps"]))
        return torch.ones_like(in_pairs(parameter)) if isinstance(base, SGD) else None
