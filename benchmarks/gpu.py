"""What a GPU makes of it: products, eigenvalues, density, surface, passes, training steps, beside other libraries.

    python benchmarks/gpu.py --data-root data        # on the first CUDA device: about four minutes
    python benchmarks/gpu.py --toy --device cpu      # the same program in a minute; numbers not worth keeping

One run, one table, the card named. Ways of one row group are interleaved, and medians over repeats; the clock is read
when the device has finished. Errors are against our own solver in float64. `torch.compile` cannot differentiate twice,
so that the other libraries' products run as they are.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import hessian as peers
import hessian_eigenthings
import numpy as np
import torch
from curvlinops.papyan2020traces.spectrum import fast_lanczos
from networks import resnet20, trained
from torch import Tensor, nn
from torch.nn import functional

from landscape import command, data, nets
from landscape.compute.masks import Masks
from landscape.compute.randomness import generator
from landscape.compute.settings import own_settings
from landscape.data import Images
from landscape.eigen import eigenpairs, spectral_density
from landscape.objective import CurvatureOperator, Objective
from landscape.predictions import Predictor
from landscape.store.protocol import Protocol
from landscape.surface import directions
from landscape.surface.cells import Cells
from landscape.training import trainer
from landscape.training.recipes import RECIPES

Ways = dict[str, Callable[[], object]]
KINDS = ("mcdo", "mcdo-smooth", "dnn", "dnn-smooth")


class Table:
    """Rows (what, way, milliseconds, ratio, error), printed as they come.

    Parameters
    ----------
    device
        Waited for before the clock is read.
    repeats
        Of every way, after one that does not count.
    """

    def __init__(self, device: torch.device, repeats: int) -> None:
        self.device, self.repeats = device, repeats

    def seconds(self, work: Callable[[], object]) -> float:
        """Of one run, until the device has finished."""
        self._wait()
        began = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def add(self, what: str, ways: Ways, *, each: float = 1.0, errors: dict[str, float] | None = None) -> None:
        """Time the ways side by side; the ratio is to the first of them."""
        times: dict[str, list[float]] = {name: [] for name in ways}
        for run in range(self.repeats + 1):
            for name, work in ways.items():
                spent = self.seconds(work)
                if run:
                    times[name].append(spent)
        medians = {name: statistics.median(values) / each for name, values in times.items()}
        first = next(iter(medians.values()))
        rows = []
        for name, value in medians.items():
            error = "" if errors is None or name not in errors else f"{errors[name]:.1e}"
            rows.append([name, f"{1e3 * value:.3g}", f"{value / first:.2f}", error])
        print(command.columns([what, "ms", "of the first", "error"], rows), flush=True)


def product_ways(net: nn.Module, images: Images, device: torch.device) -> tuple[Ways, dict[str, float]]:
    """One Hessian product, and the gradient that it is measured by."""
    batch, labels = images.batch(0, len(images), device=device), images.labels.to(device)
    parameters = list(net.parameters())

    def gradient(*, create_graph: bool = False) -> tuple[Tensor, ...]:
        loss = functional.cross_entropy(net(batch), labels)
        return torch.autograd.grad(loss, parameters, create_graph=create_graph)

    graph = gradient(create_graph=True)
    vectors = [torch.randn(p.shape, generator=generator(0)).to(device) for p in parameters]
    kept = CurvatureOperator(Objective(net, images, device=device))
    again = CurvatureOperator(Objective(net, images, device=device, memory=0))
    vector = torch.randn(kept.size, generator=generator(1)).to(device)
    block = torch.randn(kept.size, 4, generator=generator(2)).to(device)
    exact = CurvatureOperator(Objective(net, images, device=device, protocol=Protocol(dtype="float64")))
    truth = exact @ vector.double()
    error = float((kept @ vector - truth).norm() / truth.norm())
    ways: Ways = {
        "gradient": gradient,
        "double backward, graph kept": lambda: torch.autograd.grad(graph, parameters, vectors, retain_graph=True),
        "ours, graphs kept": lambda: kept @ vector,
        "ours, recomputed": lambda: again @ vector,
        "ours, recomputed, four at once": lambda: again @ block,
    }
    return ways, {"ours, graphs kept": error}


def top_five(table: Table, net: nn.Module, images: Images) -> None:
    """Five largest eigenvalues, one batch."""
    device = table.device
    exact = Objective(net, images, device=device, protocol=Protocol(dtype="float64"))
    truth = eigenpairs(CurvatureOperator(exact), 5, tolerance=1e-5).values
    batches = [(images.batch(0, len(images), device=device), images.labels.to(device))]
    solvers: dict[str, Callable[[], tuple[np.ndarray, int]]] = {
        "ours": lambda: peers.by_us(net, images, str(device)),
        "curvlinops + eigsh, tol 1e-3": lambda: peers.by_curvlinops(net, batches),
        "hessian-eigenthings, 20 steps": lambda: peers.by_eigenthings(net, batches),
        "PyHessian": lambda: peers.by_pyhessian(net, batches),
    }
    found = {name: solve() for name, solve in solvers.items()}
    errors = {name: float(np.max(np.abs(np.sort(v)[::-1][:5] - truth) / truth)) for name, (v, _) in found.items()}
    ways: Ways = {f"{name}, {found[name][1]} products": solve for name, solve in solvers.items()}
    named = {f"{name}, {found[name][1]} products": error for name, error in errors.items()}
    table.add(f"top 5, {len(images)} images", ways, errors=named)


def density(table: Table, net: nn.Module, images: Images, steps: int) -> None:
    """One probe of the spectral density."""
    batches = [(images.batch(0, len(images), device=table.device), images.labels.to(table.device))]
    operator = peers.curvlinops_operator(net, batches)
    ours = Objective(net, images, device=table.device)
    ways: Ways = {
        "ours": lambda: spectral_density(CurvatureOperator(ours), probes=1, steps=steps),
        "PyHessian, mended": lambda: peers.pyhessian_density(net, batches, steps, 1),
        "hessian-eigenthings": lambda: hessian_eigenthings.spectral_density(
            peers.eigenthings_operator(net, batches), num_runs=1, lanczos_steps=steps
        ),
        "curvlinops, not reorthogonalised": lambda: fast_lanczos(operator, steps),
    }
    table.add(f"density, {steps} steps, {len(images)} images", ways)


def surface(table: Table, net: nn.Module, images: Images) -> None:
    """One cell of a surface, all metrics of it included, beside bare forward passes."""
    objective = Objective(net, images, device=table.device)
    axes = directions.random_directions(objective, 2, seed=0)
    cells, half = Cells(objective, axes), Cells(objective, axes, precision="bfloat16")
    # Each image's loss at the origin, which rises are measured against.
    origin = cells.losses((0.0, 0.0), number=0)[:, None]
    batch = images.batch(0, len(images), device=table.device)
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def forward(dtype: torch.dtype | None) -> None:
        with torch.autocast(table.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            for part in batch.split(500):
                net(part.contiguous(memory_format=torch.channels_last))

    ways: Ways = {
        "plain forward passes": lambda: forward(None),
        "ours": lambda: cells.measure((0.1, 0.2), number=0, controls=origin),
        "plain forward passes, bfloat16": lambda: forward(torch.bfloat16),
        "ours, bfloat16": lambda: half.measure((0.1, 0.2), number=0, controls=origin),
    }
    table.add(f"cell of a surface, {len(images)} images", ways)


def passes(table: Table, width: int, images: Images, count: int) -> None:
    """Monte-Carlo passes beside plain ones with torch's own dropout."""
    model = nets.build("resnet_mcdo_18", num_classes=images.classes, width=width).to(table.device).eval()
    predictor = Predictor(model, images, device=table.device)
    batch = images.batch(0, len(images), device=table.device)

    @torch.no_grad()
    def plain() -> None:
        for _ in range(count):
            model(batch)

    def ours() -> None:
        for start, stop in predictor.batches(0, len(images)):
            predictor.passes(predictor.images(images, start, stop), start, range(count))

    table.add(f"Monte-Carlo pass of {len(images)} images", {"plain": plain, "ours": ours}, each=count)


def training_steps(table: Table, images: Images, width: int, count: int) -> None:
    """A training step of each kind, of `count` one after the other, beside a plain loop of the deterministic one."""
    images = images.to(table.device)
    compute = trainer.precision("auto", table.device)
    batch, labels = images.images[:128], images.labels[:128]
    ways: Ways = {}
    for kind, recordable in (*((kind, True) for kind in KINDS), ("dnn", False)):
        recipe = RECIPES[f"cifar100-small-{kind}"]
        recipe = recipe.replace(model={**recipe.model, "width": width, "num_classes": images.classes})
        run = trainer._Run.begun(recipe, 0, images, images, compute)
        run.recordable = recordable
        for step in range(trainer._BEFORE_RECORDING + 1):
            run.step(batch, labels, 0, step)
        how = "" if run.recording is None else ", recorded"
        ways[f"ours, {kind}{how}"] = lambda run=run: [run.step(batch, labels, 1, step) for step in range(count)]  # type: ignore
    model = nets.build("resnet_dnn_18", num_classes=images.classes, width=width).to(table.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4, fused=True)

    def plain() -> None:
        for _ in range(count):
            with torch.autocast(table.device.type, compute, enabled=compute != torch.float32), Masks.off():
                outputs = model(images.batch(0, 128, device=table.device)).float()
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(outputs, labels).backward()
            optimizer.step()

    what = f"training step of 128 images, width {width}, {str(compute).removeprefix('torch.')}"
    table.add(what, {"plain loop, dnn": plain, **ways}, each=count)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--toy", action="store_true", help="small networks and few images: to see that it runs")
    parser.add_argument("--repeats", type=command.positive, default=5)
    parser.add_argument("--data-root", default=None, help="folder of the CIFAR archives; random images without it")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    toy = arguments.toy
    table = Table(device, 1 if toy else arguments.repeats)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"{card}, torch {torch.__version__}, float32 in IEEE arithmetic but where stated", flush=True)
    if arguments.data_root is not None:
        images = data.load("cifar100", "train", root=arguments.data_root).subset(2000, seed=0)
    else:
        pixels = torch.randint(0, 256, (2000, 3, 32, 32), generator=generator(0), dtype=torch.uint8)
        labels = torch.randint(0, 100, (2000,), generator=generator(1))
        images = Images(pixels, labels, classes=100, name="random", split="train")
    few, width = (8, 4) if toy else (128, 64)
    small = trained(images, 5 if toy else 200, resnet20).to(device)
    wide = nets.build("resnet_dnn_18", num_classes=images.classes, width=width).to(device).eval()
    with own_settings():
        for name, net, count in (
            ("ResNet-20", small, few),
            ("ResNet-20", small, 4 * few),
            (f"width {width}", wide, few),
        ):
            ways, errors = product_ways(net, images.subset(count, seed=1), device)
            table.add(f"product, {name}, {count} images", ways, errors=errors)
        top_five(table, small, images.subset(few, seed=1))
        density(table, small, images.subset(few, seed=1), 4 if toy else 40)
        surface(table, small, images.subset(2 * few if toy else 1000, seed=1))
        passes(table, width, images.subset(few, seed=1), 2 if toy else 10)
    for each in dict.fromkeys((16, width)):
        training_steps(table, images.subset(256, seed=1), each, 2 if toy else 20)


if __name__ == "__main__":
    main()
