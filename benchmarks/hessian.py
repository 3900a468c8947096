"""Hessian-vector products, top-5 eigenvalues, densities and traces against other libraries, interleaved in one run.

    python benchmarks/hessian.py                 # everything, about ten minutes on 2 cores
    python benchmarks/hessian.py --only products
    python benchmarks/hessian.py --only top --top-images 512

The network is a ResNet-20 for CIFAR (0.28 million parameters), trained for a few hundred steps on the images it is
measured on, in evaluation mode. Times are medians over interleaved repeats; trust their ratios. Errors are against our
own solver in float64, whose residual bound is printed beside it.
"""

import argparse
import ctypes
import gc
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TypeVar

import curvlinops
import hessian_eigenthings
import numpy as np
import pyhessian
import scipy.sparse.linalg
import scipy.stats
import torch
from curvlinops.papyan2020traces.spectrum import fast_lanczos, lanczos_approximate_spectrum
from networks import trained
from torch import Tensor, nn

from landscape import command, data, nets
from landscape.compute.randomness import generator
from landscape.data import Images
from landscape.eigen import Estimate, eigenpairs, spectral_density, trace
from landscape.hessian import of_sample
from landscape.objective import CurvatureOperator, Objective
from landscape.store.protocol import Protocol

Result = TypeVar("Result")
Batch = tuple[Tensor, Tensor]
Curve = tuple[np.ndarray, np.ndarray]
PARTS = ("products", "top", "density", "accuracy", "trace", "sharing", "sample")


def perceptron(classes: int) -> nn.Module:
    """A network on 8 x 8 images of three equal channels, whose whole spectrum can be computed."""
    return nn.Sequential(nn.AvgPool3d((3, 1, 1)), nn.Flatten(), nn.Linear(64, 14), nn.Tanh(), nn.Linear(14, classes))


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


def measured(name: str, solve: Callable[[], Result]) -> tuple[Result, float, float]:
    """What `solve` gives, the seconds it takes and the resident memory it adds at its peak in MiB (sampled)."""
    page = resource.getpagesize() / 2**20
    done = threading.Event()
    peak = 0.0

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * page

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, resident())

    gc.collect()
    # What the allocator keeps from earlier work would hide what this one needs.
    ctypes.CDLL(None).malloc_trim(0)
    before = peak = resident()
    sampler = threading.Thread(target=sample)
    sampler.start()
    started = time.perf_counter()
    try:
        found = solve()
    finally:
        seconds = time.perf_counter() - started
        done.set()
        sampler.join()
        print(f"{name}: {seconds:.1f} s", file=sys.stderr, flush=True)
    return found, seconds, peak - before


def top_five(net: nn.Module, images: Images, per_batch: int, chosen: list[str]) -> str:
    """Top-5 eigenvalues: seconds, products, largest relative error, peak memory."""
    exact = Objective(net, images, protocol=Protocol(dtype="float64"))
    # The error of an eigenvalue is quadratic in this one of its vector.
    reference = eigenpairs(CurvatureOperator(exact), 5, tolerance=1e-5)
    truth = reference.values
    batches = [(part, label) for part, label in batches_of(images, per_batch)]
    solvers: dict[str, Callable[[], tuple[np.ndarray, int]]] = {
        "ours": lambda: by_us(net, images),
        "curvlinops + eigsh, tol 1e-3": lambda: by_curvlinops(net, batches),
        "hessian-eigenthings Lanczos, 20 steps": lambda: by_eigenthings(net, batches),
        "PyHessian eigenvalues(top_n=5)": lambda: by_pyhessian(net, batches),
        "ours, again": lambda: by_us(net, images),
    }
    rows = []
    for name, solve in solvers.items():
        if chosen and name.split()[0].strip(",") not in chosen:
            continue
        (values, count), seconds, memory = measured(name, solve)
        error = np.max(np.abs(np.sort(values)[::-1][:5] - truth) / truth)
        rows.append([name, f"{seconds:.1f}", str(count), f"{error:.1e}", f"{memory:.0f}"])
    head = [f"top 5, {len(images)} images in batches of {per_batch}", "s", "products", "error", "MiB"]
    note = f"reference: float64, residuals below {reference.residuals.max():.0e}; eigenvalues {np.round(truth, 3)}"
    return command.columns(head, rows) + "\n" + note


def batches_of(images: Images, per_batch: int) -> list[Batch]:
    starts = range(0, len(images), per_batch)
    return [(images.batch(at, at + per_batch), images.labels[at : at + per_batch]) for at in starts]


def by_us(net: nn.Module, images: Images, device: str | None = None) -> tuple[np.ndarray, int]:
    found = eigenpairs(CurvatureOperator(Objective(net, images, device=device)), 5)
    return found.values, found.products


def by_curvlinops(net: nn.Module, batches: list[Batch]) -> tuple[np.ndarray, int]:
    operator = curvlinops_operator(net, batches).to_scipy()
    count = 0

    def multiply(vector: np.ndarray) -> np.ndarray:
        nonlocal count
        count += 1
        return np.asarray(operator @ vector.astype(np.float32).reshape(-1))

    counted = scipy.sparse.linalg.LinearOperator(operator.shape, matvec=multiply, dtype=np.float32)
    values = scipy.sparse.linalg.eigsh(counted, k=5, which="LA", tol=1e-3, return_eigenvectors=False)
    return values, count


def eigenthings_operator(net: nn.Module, batches: list[Batch]) -> hessian_eigenthings.HessianOperator:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    return hessian_eigenthings.HessianOperator(net, batches, loss)


def by_eigenthings(net: nn.Module, batches: list[Batch]) -> tuple[np.ndarray, int]:
    found = hessian_eigenthings.lanczos(eigenthings_operator(net, batches), k=5, max_iter=20)
    return np.asarray(found.eigenvalues.cpu(), dtype=np.float64), 20


def pyhessian_operator(net: nn.Module, batches: list[Batch]) -> pyhessian.hessian:
    source = {"data": batches[0]} if len(batches) == 1 else {"dataloader": batches}
    return pyhessian.hessian(net, nn.CrossEntropyLoss(), **source, cuda=batches[0][0].is_cuda)


def by_pyhessian(net: nn.Module, batches: list[Batch]) -> tuple[np.ndarray, int]:
    # The package's own name for the module is taken by its class.
    module = sys.modules["pyhessian.hessian"]
    count = 0

    def counting(product: Callable[..., object]) -> Callable[..., object]:
        def counted(*arguments: object) -> object:
            nonlocal count
            count += 1
            return product(*arguments)

        return counted

    of_batch, of_loader = module.hessian_vector_product, pyhessian.hessian.dataloader_hv_product
    module.hessian_vector_product = counting(of_batch)  # type: ignore[attr-defined]
    pyhessian.hessian.dataloader_hv_product = counting(of_loader)
    try:
        with torch.random.fork_rng(devices=[]):
            values, _ = pyhessian_operator(net, batches).eigenvalues(top_n=5)
    finally:
        module.hessian_vector_product = of_batch  # type: ignore[attr-defined]
        pyhessian.hessian.dataloader_hv_product = of_loader
        net.zero_grad(set_to_none=True)
    return np.asarray(values), count


def pyhessian_density(net: nn.Module, batches: list[Batch], steps: int, probes: int) -> Curve:
    """PyHessian's density with the function that torch has removed put back, and drawn as its examples draw it."""

    def eig(matrix: Tensor, eigenvectors: bool) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eig(matrix)
        return torch.view_as_real(values), vectors.real

    torch.eig = eig  # type: ignore
    try:
        with torch.random.fork_rng(devices=[]):
            nodes, weights = pyhessian_operator(net, batches).density(iter=steps, n_v=probes)
    finally:
        del torch.eig
        net.zero_grad(set_to_none=True)
    values, masses = np.array(nodes), np.array(weights)
    # The kernel and the grid of its density_plot: variance 1e-5 times the range, at least.
    grid = np.linspace(values.min() - 0.01, values.max() + 0.01, 10_000)
    variance = 1e-5 * max(1.0, np.ptp(grid))
    kernel = np.exp(-((grid[:, None] - values.ravel()) ** 2) / (2 * variance))
    return grid, kernel @ masses.ravel()


def density(net: nn.Module, images: Images, steps: int) -> str:
    """Seconds and memory of one probe's Lanczos steps."""
    batches = batches_of(images, len(images))
    operator = curvlinops_operator(net, batches)
    solvers: dict[str, Callable[[], object]] = {
        "ours": lambda: spectral_density(CurvatureOperator(Objective(net, images)), probes=1, steps=steps),
        "PyHessian, mended": lambda: pyhessian_density(net, batches, steps, 1),
        "hessian-eigenthings": lambda: hessian_eigenthings.spectral_density(
            eigenthings_operator(net, batches), num_runs=1, lanczos_steps=steps
        ),
        "curvlinops (not reorthogonalised)": lambda: fast_lanczos(operator, steps),
    }
    rows = []
    for name, solve in solvers.items():
        _, seconds, memory = measured(name, solve)
        rows.append([name, f"{seconds:.1f}", f"{memory:.0f}"])
    return command.columns([f"density, {steps} steps, {len(images)} images", "s", "MiB"], rows)


class Counted(CurvatureOperator):
    """Counts what it does in gradients of all the images: a graph about costs one, a vector through it 1.3.

    `alone` takes every vector alone, as solvers did before their vectors shared graphs.
    """

    def __init__(self, objective: Objective, *, whole: int, alone: bool = False) -> None:
        super().__init__(objective)
        self.alone, self.gradients, self.part = alone, 0.0, objective.images / whole

    def together(self, rows: int = 0) -> int:
        """One vector, or what the operator likes."""
        return 1 if self.alone else super().together(rows)

    def __call__(self, vectors: Tensor) -> Tensor:
        """Multiply and count."""
        built = 1 - self.plan.kept / self.plan.micro_batches
        self.gradients += self.part * (built + 1.3 * (1 if vectors.ndim == 1 else vectors.shape[1]))
        return super().__call__(vectors)


def sharing(net: nn.Module, images: Images, repeats: int) -> str:
    """Density (3 x 40) and trace (30) as the command takes them, graphs recomputed: vectors alone, and together."""
    spent: dict[str, float] = {}

    def run(alone: bool, products: int, steps: int) -> Callable[[], None]:
        def both() -> None:
            operator = Counted(Objective(net, images, memory=0), whole=len(images), alone=alone)
            spectral_density(operator, probes=3, steps=steps)
            trace(operator, products=products, method="hutchinson")
            spent["alone" if alone else "together"] = operator.gradients

        return both

    seconds = median_seconds({"alone": run(True, 30, 40), "together": run(False, 30, 40)}, repeats)
    rows = [[name, f"{value:.1f}", f"{spent[name]:.0f}"] for name, value in seconds.items()]
    ratio = seconds["together"] / seconds["alone"]
    head = [f"density and trace, {len(images)} images", "s", "gradients"]
    return command.columns(head, rows) + f"\ntogether takes {ratio:.2f} of the time"


def by_sample(net: nn.Module, images: Images) -> str:
    """Five eigenpairs and the smallest eigenvalue: from nothing, and by way of a sample of the images."""
    rows = []
    count = of_sample.sample_size(len(images)) or max(len(images) // 20, 64)
    for name in ("from nothing", f"{count} images first"):
        whole = Objective(net, images, memory=0)
        operator = Counted(whole, whole=len(images))
        few = Counted(whole.sampled(count), whole=len(images))
        started = time.perf_counter()
        near = None
        if name != "from nothing":
            near = eigenpairs(few, 6, smallest=0.1, tolerance=1e-3, confidence=0, keep_space=True)
        found = eigenpairs(operator, 5, smallest=0.1, near=near)
        seconds = time.perf_counter() - started
        spent = operator.gradients + few.gradients
        numbers = (f"{seconds:.0f}", f"{found.products} + {few.products}", f"{spent:.1f}")
        rows.append([name, *numbers, f"{found.residuals.max():.1e}", f"{found.missed_probability:.2f}"])
    head = [f"top 5, {len(images)} images", "s", "products", "gradients", "largest residual", "missed"]
    return command.columns(head, rows)


def curvlinops_operator(net: nn.Module, batches: list[Batch]) -> curvlinops.HessianLinearOperator:
    return curvlinops.HessianLinearOperator(
        net, nn.CrossEntropyLoss(), list(net.parameters()), batches, check_deterministic=False
    )


@cache
def _known() -> tuple[nn.Module, Images, CurvatureOperator, Tensor]:
    """A trained network of 1,060 parameters, its images, its Hessian's products in float64, and its whole Hessian."""
    digits = data.load("digits", "train").subset(256, seed=0)
    pooled = replace(
        digits, mean=None, std=None, images=nn.functional.avg_pool2d(digits.batch(0, 256), digits.images.shape[-1] // 8)
    )
    net = trained(pooled, 200, perceptron).double()
    operator = CurvatureOperator(Objective(net, pooled, protocol=Protocol(dtype="float64")))
    matrix = operator(torch.eye(operator.size, dtype=torch.float64))
    return net, pooled, operator, (matrix + matrix.T) / 2


def traces(products: int = 30, seeds: int = 100) -> str:
    """Relative errors of the trace, and how often the interval that is stated with it holds the truth."""
    net, pooled, operator, matrix = _known()
    batches = [(inputs.double(), labels) for inputs, labels in batches_of(pooled, 256)]
    truth = float(matrix.trace())
    theirs = curvlinops_operator(net, batches)

    def after_the_top(seed: int) -> Estimate:
        space = eigenpairs(operator, 5, seed=seed, keep_space=True).space
        return trace(operator, products=products, seed=seed, space=space)

    def by_pyhessian(seed: int) -> float:
        # Its own criterion stops it at about six products: held off, to compare at equal cost.
        found = float(np.mean(pyhessian_operator(net, batches).trace(maxIter=products, tol=0)))
        net.zero_grad(set_to_none=True)
        return found

    methods: dict[str, Callable[[int], Estimate | float]] = {
        "ours, after the top five": after_the_top,
        "ours, alone": lambda seed: trace(operator, products=products, seed=seed),
        "curvlinops, XTrace": lambda seed: float(curvlinops.xtrace(theirs, products)),
        "curvlinops, Hutch++": lambda seed: float(curvlinops.hutchpp_trace(theirs, products)),
        "PyHessian, not stopped early": by_pyhessian,
    }
    rows = []
    for name, method in methods.items():
        errors, held = [], []
        for seed in range(seeds):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                found = method(seed)
            errors.append(abs((found.value if isinstance(found, Estimate) else found) - truth))
            if isinstance(found, Estimate):
                held.append(errors[-1] <= 1.96 * found.stderr)
        rows.append([name, f"{np.median(errors) / truth:.2%}", f"{np.mean(held):.0%}" if held else "none stated"])
    head = [f"trace, {matrix.shape[0]} parameters, {products} products", "median error", "95 % interval holds"]
    return command.columns(head, rows)


def accuracy(steps: int = 100, probes: int = 10) -> str:
    """Wasserstein-1 distance of every library's drawn curve from a full exact spectrum, as a share of its range."""
    net, pooled, exact_operator, matrix = _known()
    batches = [(inputs.double(), labels) for inputs, labels in batches_of(pooled, 256)]
    exact = torch.linalg.eigvalsh(matrix).numpy()

    def ours() -> Curve:
        found = spectral_density(exact_operator, probes=probes, steps=steps)
        curve = found.on_grid(found.grid(scale="linear"))
        return curve.centres, curve.density * np.diff(curve.edges)

    def eigenthings() -> Curve:
        operator = eigenthings_operator(net, batches)
        found = hessian_eigenthings.spectral_density(operator, num_runs=probes, lanczos_steps=steps)
        return found.grid.numpy(), found.density.numpy()

    def curvlinops_() -> Curve:
        with torch.random.fork_rng(devices=[]):
            grid, curve = lanczos_approximate_spectrum(
                curvlinops_operator(net, batches), steps, num_points=10_000, num_repeats=probes
            )
        return grid.numpy(), curve.numpy()

    drawn = {
        "ours": ours,
        "PyHessian, mended": lambda: pyhessian_density(net, batches, steps, probes),
        "hessian-eigenthings": eigenthings,
        "curvlinops": curvlinops_,
    }
    rows = []
    for name, draw in drawn.items():
        grid, mass = draw()
        distance = scipy.stats.wasserstein_distance(grid, exact, mass, None) / np.ptp(exact)
        rows.append([name, f"{distance:.1e}"])
    return command.columns([f"{len(exact)} parameters, {probes} probes, {steps} steps", "Wasserstein-1 of curve"], rows)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--network", help="of the products, by name and untrained, instead of the ResNet-20")
    parser.add_argument("--width", type=int, default=64, help="of that network")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--top-images", type=int, default=128)
    parser.add_argument("--per-batch", type=int, default=128, help="of the other libraries")
    parser.add_argument("--solver", action="append", default=[], help="of the top five: ours, PyHessian, ...")
    parser.add_argument("--density-steps", type=int, default=100)
    parser.add_argument("--shared-images", type=int, default=2000, help="of density and trace")
    parser.add_argument("--many-images", type=int, default=8192, help="of the eigenpairs by way of a sample")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    wanted = ["products"] if arguments.network else arguments.only or list(PARTS)
    if "accuracy" in wanted:
        print(accuracy(), flush=True)
    if "trace" in wanted:
        print(traces(), flush=True)
    if not {"products", "top", "density", "sharing", "sample"} & set(wanted):
        return
    train = data.load("cifar100", "train").subset(2000, seed=0)
    if arguments.network:
        net = nets.build(arguments.network, num_classes=train.classes, width=arguments.width).eval()
    else:
        net = trained(train, arguments.steps)
    count = sum(parameter.numel() for parameter in net.parameters())
    name = arguments.network or "ResNet-20"
    print(f"{name}, {count:,} parameters, CIFAR-100, {torch.get_num_threads()} threads, torch {torch.__version__}")
    if "products" in wanted:
        print(products(net, train.subset(arguments.images, seed=1), arguments.repeats), flush=True)
    if "top" in wanted:
        print(
            top_five(net, train.subset(arguments.top_images, seed=1), arguments.per_batch, arguments.solver), flush=True
        )
    if "density" in wanted:
        print(density(net, train.subset(64, seed=1), arguments.density_steps), flush=True)
    if "sharing" in wanted:
        print(sharing(net, train.subset(arguments.shared_images, seed=1), arguments.repeats), flush=True)
    if "sample" in wanted:
        many = data.load("cifar100", "train").subset(arguments.many_images, seed=1)
        print(by_sample(net, many), flush=True)


if __name__ == "__main__":
    main()
