"""The edge of stability: full-batch gradient descent sharpens until 2 / learning rate, and hovers there.

Cohen et al. 2021, "Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability" (arXiv 2103.00065),
on 300 handwritten digits and a small tanh network, in a minute on a laptop:

    python examples/edge_of_stability.py edge_of_stability.png
"""

import sys
from pathlib import Path

import torch
import xarray
from torch import Tensor, nn

from landscape import Monitor, plotting
from landscape.data import load

LEARNING_RATES = (0.1, 0.08, 0.06)


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Half the squared distance from the one-hot targets, mean over examples."""
    return (outputs - targets).square().sum(1).mean() / 2


def descend(learning_rate: float, *, steps: int = 2500, every: int = 20) -> xarray.Dataset:
    """Train with full-batch gradient descent, and watch the curvature of the loss that is descended."""
    digits = load("digits").subset(300, seed=0)
    inputs = nn.functional.avg_pool2d(digits.batch(0, 300)[:, :1], 2).flatten(1)
    targets = nn.functional.one_hot(digits.labels, 10).float()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 50), nn.Tanh(), nn.Linear(50, 50), nn.Tanh(), nn.Linear(50, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)

    monitor = Monitor(model, (inputs, targets), squared_error, optimizer=optimizer, every=every, budget=None)
    for _ in range(steps):
        optimizer.zero_grad()
        squared_error(model(inputs), targets).backward()
        optimizer.step()
        monitor.step()
    return monitor.dataset()


def draw(results: list[xarray.Dataset], path: Path) -> None:
    """Sharpness and loss of each learning rate, with the line 2 / learning rate."""
    with plotting.style():
        figure = plotting.figure(6.0, 4.6)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        for color, result in zip(plotting.COLORS, results, strict=False):
            rate = float(result["learning_rate"][0])
            above.plot(result["step"], result["largest_eigenvalue"], color=color, label=f"learning rate {rate:g}")
            above.axhline(2 / rate, color=color, linestyle="--", linewidth=0.9)
            below.plot(result["step"], result["loss"], color=color)
        above.plot([], [], "k--", linewidth=0.9, label="2 / learning rate")
        above.set_ylabel("largest eigenvalue")
        above.set_ylim(bottom=0)
        above.legend(loc="lower right")
        below.set_yscale("log")
        below.set_ylabel("loss")
        below.set_xlabel("step of gradient descent")
        plotting.save(figure, path)


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "edge_of_stability.png")
    draw([descend(rate) for rate in LEARNING_RATES], target)
    print(f"drawn to {target}")
