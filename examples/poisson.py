r"""A physics-informed network for Poisson's equation on the unit square, whose solution is known.

.. math:: \Delta u = -2 \pi^2 \sin(\pi x) \sin(\pi y), \qquad u = \sin(\pi x) \sin(\pi y)

    python -m landscape.hessian --model examples/poisson.py:network --data examples/poisson.py:data \
        --loss examples/poisson.py:residual --dtype float64
"""

import math

import torch
from torch import Tensor, nn
from trained import trained


class Solution(nn.Module):
    """A network times a function that vanishes on the boundary."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
        )

    def forward(self, points: Tensor) -> Tensor:
        """Values (N,) at points (N, 2)."""
        return self.layers(points)[:, 0] * (points * (1 - points)).prod(1)


def network(steps: int = 300, width: int = 16) -> nn.Module:
    """A network trained to solve the equation."""
    return trained(lambda: Solution(width), lambda model: residual(model, data()).mean(), steps, rate=0.01)


# The user's own lines begin here.
def residual(network: nn.Module, inputs: Tensor) -> Tensor:
    """Square of what is left of the equation, point by point (N,)."""
    points = inputs.requires_grad_()
    (slope,) = torch.autograd.grad(network(points).sum(), points, create_graph=True)
    bend = sum(torch.autograd.grad(slope[:, axis].sum(), points, create_graph=True)[0][:, axis] for axis in (0, 1))
    return (bend + 2 * math.pi**2 * (math.pi * points).sin().prod(1)).square()


def data(count: int = 200) -> Tensor:
    """Points (N, 2) in the square."""
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(0))
