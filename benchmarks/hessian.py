"""Hessian-vector products and top-5 eigenvalues against other libraries, in one interleaved run.

    python benchmarks/hessian.py                 # everything, about ten minutes on 2 cores
    python benchmarks/hessian.py --only products

The network is a ResNet-20 for CIFAR (0.28 million parameters), trained for a few hundred steps on the images it is
measured on, in evaluation mode. Times are medians over interleaved repeats; trust their ratios. Errors are against our
own solver in float64, whose residual bound is printed beside it.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import scipy.sparse.linalg
import torch
from torch import Tensor, nn

from landscape import command, data
from landscape.data import Images
from landscape.eigen import eigenpairs
from landscape.objective import CurvatureOperator, Objective
from landscape.protocol import Protocol
from landscape.randomness import generator


class Block(nn.Module):
    """Basic residual block."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, features: Tensor) -> Tensor:
        """Block output."""
        inner = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(features)))))
        return torch.relu(inner + self.shortcut(features))


def resnet20(classes: int) -> nn.Module:
    """ResNet-20 (He et al. 2016), width 16."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    inputs = 16
    for outputs, stride in ((16, 1), (32, 2), (64, 2)):
        for place in range(3):
            layers.append(Block(inputs, outputs, stride if place == 0 else 1))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def trained(images: Images, steps: int) -> nn.Module:
    """The network after some steps of SGD: random weights have no spectrum worth finding."""
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(generator(0, "benchmark").get_state())
        net = resnet20(images.classes).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    source = generator(0, "benchmark order")
    for _ in range(steps):
        chosen = images.select(torch.randint(len(images), (128,), generator=source))
        loss = nn.functional.cross_entropy(net(chosen.batch(0, 128)), chosen.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]


def median_seconds(rivals: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median time of each, interleaved, after one warm-up."""
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for run in range(repeats + 1):
        for name, rival in rivals.items():
            started = time.perf_counter()
            rival()
            if run:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def products(net: nn.Module, images: Images, repeats: int) -> str:
    """One product as a share of one plain gradient of the same batch, the fastest of three ways to take it."""
    batch, labels = images.batch(0, len(images)), images.labels
    parameters = list(net.parameters())

    def gradient(size: int) -> Callable[[], object]:
        def run() -> None:
            for part, label in zip(batch.split(size), labels.split(size), strict=True):
                torch.autograd.grad(nn.functional.cross_entropy(net(part), label), parameters)

        return run

    def kept_double_backward() -> Callable[[], object]:
        graphs = [
            torch.autograd.grad(nn.functional.cross_entropy(net(part), label), parameters, create_graph=True)
            for part, label in zip(batch.split(64), labels.split(64), strict=True)
        ]
        vectors = [torch.randn(p.shape, generator=generator(0)) for p in parameters]
        return lambda: [torch.autograd.grad(graph, parameters, vectors, retain_graph=True) for graph in graphs]

    kept = CurvatureOperator(Objective(net, images))
    recomputed = CurvatureOperator(Objective(net, images, memory=0))
    vector = torch.randn(kept.size, generator=generator(0))
    block = torch.randn(kept.size, 4, generator=generator(0))
    seconds = median_seconds(
        {
            "gradient, whole batch": gradient(len(images)),
            "gradient, micro-batches of 128": gradient(128),
            "gradient, micro-batches of 64": gradient(64),
            "plain double backward, graphs kept": kept_double_backward(),
            "ours, graphs kept": lambda: kept(vector),
            "ours, recomputed": lambda: recomputed(vector),
            "ours, recomputed, four vectors at once (each)": lambda: recomputed(block),
        },
        repeats,
    )
    seconds["ours, recomputed, four vectors at once (each)"] /= 4
    floor = min(value for name, value in seconds.items() if name.startswith("gradient"))
    rows = [[name, f"{1e3 * value:.0f}", f"{value / floor:.2f}"] for name, value in seconds.items()]
    return command.columns([f"{len(images)} images", "ms", "gradients"], rows)


def top_five(net: nn.Module, images: Images) -> str:
    """Top-5 eigenvalues: seconds, products, largest relative error."""
    exact = Objective(net, images, protocol=Protocol(dtype="float64"))
    reference = eigenpairs(CurvatureOperator(exact), 5, tolerance=1e-9)
    truth = reference.values

    def row(name: str, solve: Callable[[], tuple[np.ndarray, int]]) -> list[str]:
        started = time.perf_counter()
        values, count = solve()
        seconds = time.perf_counter() - started
        error = np.max(np.abs(np.sort(values)[::-1][:5] - truth) / truth)
        return [name, f"{seconds:.1f}", str(count), f"{error:.1e}"]

    rows = [row("ours", lambda: _ours(net, images))]
    rows.append(row("curvlinops + eigsh, tol 1e-3", lambda: _curvlinops(net, images)))
    rows.append(row("hessian-eigenthings Lanczos, 20 steps", lambda: _eigenthings(net, images)))
    rows.append(row("PyHessian eigenvalues(top_n=5)", lambda: _pyhessian(net, images)))
    rows.append(row("ours, again", lambda: _ours(net, images)))
    note = f"reference: float64, residuals below {reference.residuals.max():.0e}; eigenvalues {np.round(truth, 3)}"
    return command.columns([f"top 5, {len(images)} images", "s", "products", "error"], rows) + "\n" + note


def _ours(net: nn.Module, images: Images) -> tuple[np.ndarray, int]:
    found = eigenpairs(CurvatureOperator(Objective(net, images)), 5)
    return found.values, found.products


def _curvlinops(net: nn.Module, images: Images) -> tuple[np.ndarray, int]:
    import curvlinops

    operator = curvlinops.HessianLinearOperator(
        net, nn.CrossEntropyLoss(), list(net.parameters()), [(images.batch(0, len(images)), images.labels)]
    ).to_scipy()
    count = 0

    def multiply(vector: np.ndarray) -> np.ndarray:
        nonlocal count
        count += 1
        return np.asarray(operator @ vector.astype(np.float32).reshape(-1))

    counted = scipy.sparse.linalg.LinearOperator(operator.shape, matvec=multiply, dtype=np.float32)
    values = scipy.sparse.linalg.eigsh(counted, k=5, which="LA", tol=1e-3, return_eigenvectors=False)
    return values, count


def _eigenthings(net: nn.Module, images: Images) -> tuple[np.ndarray, int]:
    from hessian_eigenthings import HessianOperator, lanczos

    batch = (images.batch(0, len(images)), images.labels)

    def loss(model: nn.Module, pair: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(model(pair[0]), pair[1])

    found = lanczos(HessianOperator(net, [batch], loss), k=5, max_iter=20)
    return np.asarray(found.eigenvalues.cpu(), dtype=np.float64), 20


def _pyhessian(net: nn.Module, images: Images) -> tuple[np.ndarray, int]:
    import pyhessian
    import pyhessian.hessian as module

    count = 0
    product = module.hessian_vector_product

    def counted(*arguments: object) -> object:
        nonlocal count
        count += 1
        return product(*arguments)

    module.hessian_vector_product = counted
    try:
        with torch.random.fork_rng(devices=[]):
            peer = pyhessian.hessian(
                net, nn.CrossEntropyLoss(), data=(images.batch(0, len(images)), images.labels), cuda=False
            )
            values, _ = peer.eigenvalues(top_n=5)
    finally:
        module.hessian_vector_product = product
        net.zero_grad(set_to_none=True)
    return np.asarray(values), count


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("products", "top"), action="append")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--top-images", type=int, default=128)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    wanted = arguments.only or ["products", "top"]
    train = data.load("cifar100", "train").subset(2000, seed=0)
    net = trained(train, arguments.steps)
    count = sum(parameter.numel() for parameter in net.parameters())
    print(f"ResNet-20, {count:,} parameters, CIFAR-100, {torch.get_num_threads()} threads, torch {torch.__version__}")
    if "products" in wanted:
        print(products(net, train.subset(arguments.images, seed=1), arguments.repeats), flush=True)
    if "top" in wanted:
        print(top_five(net, train.subset(arguments.top_images, seed=1)), flush=True)


if __name__ == "__main__":
    main()
