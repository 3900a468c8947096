"""What the examples share: a network made and trained a little, the same every time."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def trained(
    make: Callable[[], nn.Module], loss: Callable[[nn.Module], Tensor], steps: int, rate: float = 3e-3
) -> nn.Module:
    """The network that `make` makes, after some steps of Adam down `loss`; global random numbers are as before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        for _ in range(steps):
            optimizer.zero_grad()
            loss(model).backward()
            optimizer.step()
    return model.eval()
