"""What a loss surface costs: against the plain forward floor, the paper's procedure, and ``loss-landscapes``.

    python benchmarks/surface.py                                  # ten minutes on 2 cores
    python benchmarks/surface.py --sampling CKPT --data-root DIR  # what --stderr saves, and whether its errors hold

The network is a ResNet-20 for CIFAR, trained for a few steps on the 1,000 CIFAR-100 images it is measured on. Cells are
timed with all ways interleaved; then a whole surface with its journal, from nothing to the dataset, against as many
plain forwards as it has cells, timed between them.
"""

import argparse
import copy
import io
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from networks import Block, trained
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from landscape import command, data
from landscape.compute.randomness import generator
from landscape.data import Images
from landscape.objective import Objective
from landscape.store.journal import Journal
from landscape.surface import directions, plane
from landscape.surface.cells import Cells

CLASSES = 100
POINTS = 21
PAPERS = "the paper's procedure"


def fused(net: nn.Module) -> nn.Module:
    """The net with its batch norms folded once and for all, by the framework's own tool."""
    net = copy.deepcopy(net)
    norms = [(f"{n}.conv1", f"{n}.bn1") for n, m in net.named_modules() if isinstance(m, Block)]
    norms += [(f"{n}.conv2", f"{n}.bn2") for n, m in net.named_modules() if isinstance(m, Block)]
    norms += [
        (f"{n}.shortcut.0", f"{n}.shortcut.1") for n, m in net.named_modules() if isinstance(m, Block) and m.shortcut
    ]
    for convolution, norm in [("0", "1"), *norms]:
        parent, _, child = convolution.rpartition(".")
        first, second = net.get_submodule(convolution), net.get_submodule(norm)
        assert isinstance(first, nn.Conv2d)
        assert isinstance(second, nn.BatchNorm2d)
        folded = fuse_conv_bn_eval(first, second)
        setattr(net.get_submodule(parent), child, folded)
        parent, _, child = norm.rpartition(".")
        setattr(net.get_submodule(parent), child, nn.Identity())
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def floor(net: nn.Module, images: Tensor, batch: int) -> Callable[[], object]:
    """A bare forward pass over all images: no surface can be had for less in this precision."""
    folded = fused(net)
    parts = [part.contiguous(memory_format=torch.channels_last) for part in images.split(batch)]

    def run() -> object:
        with torch.no_grad():
            return [folded(part) for part in parts]

    return run


def papers(net: nn.Module, images: Tensor, labels: Tensor, *, figure: bool, batch: int = 128) -> Callable[[], object]:
    """The procedure of Park & Kim, cell by cell, as their published code does it.

    A new state dict from sums of dictionaries; a pass over the first batch to learn the number of classes; behind every
    batch all metrics on the host, from dense confusion matrices, four of them for the cutoffs and one a confidence bin.
    Their code also draws a calibration diagram in every cell, with `figure`.
    """
    net = copy.deepcopy(net)
    start = copy.deepcopy(net.state_dict())
    source = generator(0, "benchmark direction")
    axes = [
        {name: torch.randn(value.shape, generator=source) * 1e-3 for name, value in start.items()} for _ in range(2)
    ]
    cutoffs, bins = (0.0, 0.9), np.linspace(0, 1, 11)

    def confusion(p: np.ndarray, y: np.ndarray, low: float, high: float) -> np.ndarray:
        confidence = p.max(1)
        chosen = (confidence > low) & (confidence <= high)
        counts = np.bincount(CLASSES * y[chosen] + p.argmax(1)[chosen], minlength=CLASSES**2)
        return counts.reshape(CLASSES, CLASSES)

    def metrics(sure: list[np.ndarray], unsure: list[np.ndarray], in_bin: list[np.ndarray], sums: np.ndarray) -> object:
        found: list[object] = []
        for one, other in zip(sure, unsure, strict=True):
            hits = one.diagonal()
            union = one.sum(0) + one.sum(1) - hits
            wrong, wrong_unsure = one.sum() - hits.sum(), other.sum() - other.diagonal().sum()
            overlap = np.divide(hits, union, out=np.zeros(CLASSES), where=union != 0)
            present = one.sum(1) > 0
            found.append(hits.sum() / max(one.sum(), 1))
            found.append(np.average(overlap, weights=present) if present.any() else 0.0)
            found.append(wrong_unsure / (wrong + wrong_unsure + 1e-7))
            found.append(one.sum() / (one.sum() + other.sum() + 1e-7))
        counts = np.array([m.sum() for m in in_bin])
        right = np.array([m.diagonal().sum() for m in in_bin]) / np.maximum(counts, 1)
        share = counts / (counts.sum() + 1e-7)
        gap = right - sums / (counts + 1e-7)
        return [*found, np.abs(gap) @ share, gap @ share, right]

    def run() -> object:
        moved = copy.deepcopy(start)
        steps = [{name: 0.1 * value for name, value in axis.items()} for axis in axes]
        net.load_state_dict({name: torch.stack([step[name] for step in steps]).sum(0) + moved[name] for name in moved})
        sure, unsure = ([np.zeros((CLASSES, CLASSES)) for _ in cutoffs] for _ in range(2))
        in_bin = [np.zeros((CLASSES, CLASSES)) for _ in bins[1:]]
        sums = np.zeros(len(bins) - 1)
        losses: list[float] = []
        brier: list[np.ndarray] = []
        top: list[np.ndarray] = []
        found: object = None
        with torch.no_grad():
            net(images[:batch])
            for xs, ys in zip(images.split(batch), labels.split(batch), strict=True):
                probabilities = torch.softmax(net(xs), -1)
                losses.append(float(nn.functional.cross_entropy(torch.log(probabilities), ys)))
                p, y = probabilities.numpy(), ys.numpy()
                top.append((p.argsort(1)[:, -5:] == y[:, None]).any(1))
                brier.append(((np.eye(CLASSES)[y] - p) ** 2).sum(1))
                for place, cutoff in enumerate(cutoffs):
                    sure[place] = sure[place] + confusion(p, y, cutoff, 1.0)
                    unsure[place] = unsure[place] + confusion(p, y, 0.0, cutoff)
                for place, (low, high) in enumerate(pairwise(bins)):
                    in_bin[place] = in_bin[place] + confusion(p, y, low, high)
                    confidence = p.max(1)
                    sums[place] += confidence[(confidence >= low) & (confidence < high)].sum()
                found = metrics(sure, unsure, in_bin, sums)
        if figure:
            _calibration_diagram(in_bin)
        norms = [sum(value.norm(p=order) for value in net.parameters()) for order in (1, 2)]
        return found, np.mean(losses), np.concatenate(brier).mean(), np.concatenate(top).mean(), norms

    return run


def _calibration_diagram(in_bin: list[np.ndarray]) -> None:
    """Two bar charts as a bitmap in memory."""
    made = Figure(figsize=(10, 4))
    canvas = FigureCanvasAgg(made)
    centres = np.linspace(5, 95, len(in_bin))
    counts = np.array([m.sum() for m in in_bin])
    right = np.array([m.diagonal().sum() for m in in_bin]) / np.maximum(counts, 1)
    for place, heights in enumerate((counts / max(counts.sum(), 1), right)):
        panel = made.add_subplot(1, 2, place + 1)
        panel.bar(centres, 100 * heights, width=10, edgecolor="black", alpha=0.8)
        panel.set(xlim=(0, 100), ylim=(0, 100), xlabel="Confidence (%)", ylabel="%")
    made.tight_layout()
    canvas.print_png(io.BytesIO())


def library(net: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], object]:
    """``loss-landscapes`` as its documentation uses it: all data as the one batch of its `Loss` metric."""
    import loss_landscapes
    from loss_landscapes.metrics import Loss

    metric = Loss(nn.CrossEntropyLoss(), images, labels)
    net = copy.deepcopy(net)
    # One call measures steps^2 cells: 2 x 2 here, so that a share of a call's overhead is in every cell, as in 21 x 21.
    return lambda: loss_landscapes.random_plane(net, metric, 1, 2, normalization="filter", deepcopy_model=True)


def compare(images: Images, rounds: int, steps: int, points: int) -> None:
    net, inputs, labels = trained(images, steps), images.batch(0, len(images)), images.labels
    objective = Objective(net, images, weight_decay=5e-4)
    axes = directions.random_directions(objective)
    ways: dict[str, tuple[Callable[[], object], int]] = {}
    for batch in (32, 64, 100, 128, 256):
        ways[f"plain forward, folded, channels-last, batches of {batch}"] = (floor(net, inputs, batch), 1)
    losses: dict[str, float] = {}
    for precision in ("full", "bfloat16"):
        made = Cells(objective, axes, precision=precision)
        controls = made.losses((0.0, 0.0), number=0)[:, None]
        losses[precision] = float(controls.mean())

        def ours(made: Cells = made, controls: Tensor = controls) -> object:
            return made.measure((0.1, -0.1), number=0, controls=controls)

        ways[f"a cell, {precision} precision, micro-batches of {made.inference.micro_batch}"] = (ours, 1)
    ways[PAPERS] = (papers(net, inputs, labels, figure=False), 1)
    ways["with its calibration diagram"] = (papers(net, inputs, labels, figure=True), 1)
    ways["loss-landscapes"] = (library(net, inputs, labels), 4)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for run, _ in ways.values():
        run()
    for number in range(rounds):
        for name, (run, cells) in ways.items():
            # What measures several cells at a time gets fewer turns.
            if number % cells == 0:
                started = time.perf_counter()
                run()
                seconds[name].append((time.perf_counter() - started) / cells)
    # Others on the machine can only add to a time.
    least = {name: min(values) for name, values in seconds.items()}
    fastest = min((name for name in ways if name.startswith("plain")), key=lambda name: least[name])
    rows = [
        [
            name,
            f"{1e3 * statistics.median(seconds[name]):.0f}",
            f"{1e3 * value:.0f}",
            f"{value / least[fastest]:.2f}",
            f"{least[PAPERS] / value:.2f}",
            f"{least['loss-landscapes'] / value:.2f}",
        ]
        for name, value in least.items()
    ]
    head = [f"{len(images)} images a cell", "median ms", "least ms", "x floor", "paper's / this", "library's / this"]
    print(command.columns(head, rows))
    print(
        f"loss {losses['full']:.4f}; in bfloat16 off by {abs(losses['bfloat16'] - losses['full']):.2g} nats, "
        f"{100 * abs(losses['bfloat16'] / losses['full'] - 1):.2g} %"
    )
    whole(net, images, ways[fastest][0], points)


def whole(net: nn.Module, images: Images, forward: Callable[[], object], points: int) -> None:
    """A whole surface with its journal; a plain forward is timed behind every cell, so that both see one machine."""
    plain: list[float] = []

    class Interleaved(Journal):
        def write(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
            super().write(key, arrays)
            started = time.perf_counter()
            forward()
            plain.append(time.perf_counter() - started)

    with tempfile.TemporaryDirectory() as folder, Interleaved(Path(folder) / "journal", {"what": "benchmark"}) as kept:
        started = time.perf_counter()
        plane(Objective(net, images, weight_decay=5e-4), points=points, journal=kept)
        seconds = time.perf_counter() - started - math.fsum(plain)
    lowest = points**2 * math.fsum(plain) / len(plain)
    print(
        f"a whole surface of {points} x {points} cells with metrics, standard errors and journal: {seconds:.1f} s, "
        f"{seconds / lowest:.3f} times {points**2} plain forwards ({lowest:.1f} s)"
    )


def sampling(checkpoint: str, points: int, wanted: str, seeds: int, root: Path) -> None:
    """What ``--stderr`` saves on all images, and in which share of cells the stated intervals hold."""
    from landscape.surface.cli import parser

    arguments = parser().parse_args([checkpoint, "--images", "all", "--data-root", str(root)])
    (subject,) = command.subjects(arguments)
    objective = command.objective(arguments, subject)
    axes = directions.random_directions(objective)
    full = plane(objective, directions=axes, points=points, quiet=False)
    inside, total = 0, 0
    for seed in range(seeds):
        some = plane(objective, directions=axes, points=points, stderr=wanted, seed=seed, quiet=False)
        error, off = some.loss_stderr.values, np.abs(some.loss.values - full.loss.values)
        # What is measured on all images is exact, and no evidence.
        sampled = error > 1e-3 * np.median(error)
        inside += int((off[sampled] <= 1.96 * error[sampled]).sum())
        total += int(sampled.sum())
        passes = some.attrs["image_passes"] + (POINTS**2 - points**2) * some.attrs["images_sampled"]
        print(
            f"seed {seed}: {some.attrs['images_sampled']} of {objective.images} images; stated error at most "
            f"{error.max():.3g} nats, true error at most {off.max():.3g}; {POINTS} x {POINTS} cells would be "
            f"{POINTS**2 * objective.images / passes:.3g} times cheaper, pilot and reference cells counted"
        )
    print(f"range {float(full.loss.max() - full.loss.min()):.4g} nats, wanted {wanted} of it")
    print(f"95 % intervals hold in {inside} of {total} cells ({100 * inside / total:.1f} %)")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data-root", type=Path, default=Path("data"), help="folder of the CIFAR archives")
    arguments.add_argument("--images", type=int, default=1000)
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--steps", type=int, default=60, help="of training")
    arguments.add_argument("--sampling", metavar="CKPT")
    arguments.add_argument("--points", type=int, help="cells along each axis (default: 21; with --sampling 5)")
    arguments.add_argument("--stderr", default="1%", help="wanted, with --sampling")
    arguments.add_argument("--seeds", type=int, default=8, help="samples drawn, with --sampling")
    given = arguments.parse_args()
    if given.sampling:
        sampling(given.sampling, given.points or 5, given.stderr, given.seeds, given.data_root)
    else:
        compare(
            data.load("cifar100", "train", root=given.data_root).subset(given.images, seed=0),
            given.rounds,
            given.steps,
            given.points or POINTS,
        )


if __name__ == "__main__":
    main()
