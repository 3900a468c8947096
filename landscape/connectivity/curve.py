"""A curve of low loss between two networks, trained."""

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from landscape.compute.progress import Progress
from landscape.compute.randomness import generator
from landscape.compute.settings import measurement
from landscape.connectivity.choices import STEPS
from landscape.errors import LandscapeError
from landscape.objective import Objective
from landscape.store.journal import Journal

_MOMENTUM = 0.9
# Pieces that a killed training loses at most one of.
_PIECES = 4


def coordinates(t: float) -> tuple[float, float]:
    """Coefficients of the end and of the bend, relative to the start, at *t* in [0, 1] along the curve."""
    return t**2, 2 * t * (1 - t)


@measurement
def bend(
    objective: Objective,
    end: Tensor,
    *,
    steps: int = STEPS,
    batch: int = 128,
    learning_rate: float = 0.05,
    seed: int = 0,
    journal: Journal | None = None,
    key: str = "curve",
    quiet: bool = True,
) -> Tensor:
    r"""The bend of a quadratic Bezier curve between two networks along which the mean loss is small.

    .. math:: \phi(t) = (1-t)^2 w_A + 2t(1-t)\,\theta + t^2 w_B, \qquad \min_\theta E_{t \sim U(0,1)} L(\phi(t))

    by SGD with momentum 0.9 and a learning rate that falls as a cosine, one *t* per batch (Garipov et al. 2018, arXiv
    1802.10026, section 3), from the middle of the line.

    Parameters
    ----------
    objective
        The regularised loss, :math:`w_A` its own point. Batches are drawn from its examples; networks with batch norm
        want its protocol's ``batch_norm="batch"``, as in training.
    end
        :math:`w_B`, (P,).
    steps
        Of SGD. 200 find a curve well below the line (``docs/connectivity.md``); the paper trains for many epochs.
    batch
        Examples per step.
    learning_rate
        At the start.
    seed
        Of the batches and the draws of *t*.
    journal, key
        Where a quarter of the training at a time is kept: killed, it resumes to the same bits.
    quiet
        No progress bar.

    Returns
    -------
    Tensor
        :math:`\theta`, (P,) float64.

    Raises
    ------
    LandscapeError
        When the training diverges.
    """
    start, end = objective.point.double(), end.double().to(objective.device)
    point, velocity = (start + end) / 2, torch.zeros_like(start)
    bounds = [round(steps * piece / _PIECES) for piece in range(_PIECES + 1)]
    with Progress(steps, "curve", unit="step", quiet=quiet) as bar:
        for piece, (first, last) in enumerate(itertools.pairwise(bounds)):
            name = f"{key}/{piece}"
            if journal is not None and name in journal:
                kept = journal[name]
                point, velocity = (
                    torch.from_numpy(kept[part].copy()).to(start.device) for part in ("bend", "velocity")
                )
                bar.resumed(last - first)
                continue
            for step in range(first, last):
                rate = learning_rate * (1 + math.cos(math.pi * step / steps)) / 2
                source = generator(seed, "curve", step)
                rows = torch.randperm(objective.images, generator=source)[:batch]
                t = float(torch.rand((), generator=source, dtype=torch.float64))
                to_end, to_bend = coordinates(t)
                here = start + to_end * (end - start) + to_bend * (point - start)
                velocity = _MOMENTUM * velocity + to_bend * _gradient(objective, here, rows, step)
                point = point - rate * velocity
                bar.update(1)
            if not bool(point.isfinite().all()):
                raise LandscapeError("the training of the curve diverges: give a smaller --curve-rate")
            if journal is not None:
                journal.write(name, {"bend": _array(point), "velocity": _array(velocity)})
    return point


def _gradient(objective: Objective, point: Tensor, rows: Tensor, sample: int) -> Tensor:
    """Gradient of the regularised loss on some examples (P,), float64."""
    few = objective.reordered(rows)
    leaves = [part.detach().requires_grad_() for part in objective.space.split(point.to(objective.dtype))]
    with torch.enable_grad():
        # `batch_loss` is what these examples add to the mean over all of them.
        scale = objective.terms / max(few.count(0, len(rows)), 1)
        loss = few.batch_loss(leaves, 0, len(rows), sample=sample) * scale
        gradients = torch.autograd.grad(loss + objective.l2(leaves), leaves, materialize_grads=True)
    return objective.space.flatten(gradients).double()


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().numpy()
