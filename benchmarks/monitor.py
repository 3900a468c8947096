"""What the monitor promises: warm starts against cold solves, and its cost as a share of the training.

    python benchmarks/monitor.py            # ten minutes on one core
    python benchmarks/monitor.py --epochs 8 --every 10

A CNN with batch norm is trained on scikit-learn's digits, by SGD with momentum and by Adam. At every measurement a cold
solve to 1e-4 tells the true largest eigenvalue. A second training, without cold solves, tells what the monitor costs.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from landscape import CurvatureOperator, Monitor, Objective
from landscape.data import Images, load
from landscape.eigen import eigenpairs

EXAMPLES = 256


def network() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 16, 1), (16, 32, 2), (32, 32, 1)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "SGD, momentum 0.9": lambda net: torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4),
    "Adam": lambda net: torch.optim.Adam(net.parameters(), lr=2e-3),
}


def train(
    net: nn.Module, optimizer: torch.optim.Optimizer, data: Images, epochs: int, after: Callable[[int], object]
) -> float:
    """Seconds of a training; `after` is called behind every step."""
    inputs, targets = data.batch(0, len(data)), data.labels
    source = torch.Generator().manual_seed(1)
    began = time.perf_counter()
    step = 0
    for _ in range(epochs):
        net.train()
        for rows in torch.randperm(len(targets), generator=source).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(inputs[rows]), targets[rows]).backward()
            optimizer.step()
            step += 1
            after(step)
    return time.perf_counter() - began


def accuracy(name: str, data: Images, epochs: int, every: int) -> None:
    """Print errors of warm starts of 2 to 6 products against cold solves along one training."""
    net = network()
    optimizer = OPTIMIZERS[name](net)
    fixed = data.subset(EXAMPLES, 0)
    monitors = {n: Monitor(net, fixed, optimizer=optimizer, products=n, trace_products=0) for n in (2, 3, 4, 6)}
    errors: dict[int, list[float]] = {n: [] for n in monitors}
    bounds: dict[int, list[float]] = {n: [] for n in monitors}
    cold_products: list[int] = []

    def compare(step: int) -> None:
        if step % every:
            return
        decay = float(optimizer.param_groups[0]["weight_decay"])
        cold = eigenpairs(CurvatureOperator(Objective(net, fixed, weight_decay=decay)), 1, tolerance=1e-4, confidence=0)
        cold_products.append(cold.products)
        for products, monitor in monitors.items():
            monitor.steps = step
            first = not monitor.rows
            row = monitor.measure()
            if not first:
                errors[products].append(abs(row["largest_eigenvalue"] / float(cold.values[0]) - 1))
                bounds[products].append(row["largest_residual"] / row["largest_eigenvalue"])

    train(net, optimizer, data, epochs, compare)
    print(
        f"{name}: every {every} steps, {len(cold_products)} cold solves of {np.mean(cold_products):.0f} products each"
    )
    print("  products   median error   90 %   largest   median bound")
    for products, found in errors.items():
        print(
            f"  {products:8}   {np.median(found):12.2%}   {np.quantile(found, 0.9):4.1%}   {max(found):7.1%}"
            f"   {np.median(bounds[products]):12.2%}"
        )


def cost(name: str, data: Images, epochs: int) -> None:
    """Print what the monitor costs, as it states it and as a clock around two trainings sees it."""
    for budget in (0.01, 0.1):
        net = network()
        optimizer = OPTIMIZERS[name](net)
        monitor = Monitor(net, data.subset(EXAMPLES, 0), optimizer=optimizer, every=100, budget=budget)
        train(net, optimizer, data, epochs, lambda step, monitor=monitor: monitor.step())  # type: ignore[misc]
        print(f"  {monitor}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--every", type=int, default=40, help="steps between the cold solves")
    arguments = parser.parse_args()
    data = load("digits")
    if arguments.epochs * len(data) < 3 * 64 * arguments.every:
        parser.error(f"{arguments.epochs} epochs are too few steps for solves every {arguments.every}: lower --every")
    for name in OPTIMIZERS:
        accuracy(name, data, arguments.epochs, arguments.every)
        cost(name, data, arguments.epochs)


if __name__ == "__main__":
    main()
