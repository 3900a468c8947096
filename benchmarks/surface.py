"""What a cell of a loss surface costs: against the plain forward floor, the paper's procedure, and ``loss-landscapes``.

``python benchmarks/surface.py [--cells N] [--images N]`` times cells of a ResNet-20 on 1,000 images of CIFAR's shape,
ways interleaved, medians over cells; a 21 x 21 surface is 441 of them. With ``--sampling CKPT`` it measures instead
what ``--stderr`` saves on a checkpoint's whole data set, and whether the stated errors hold.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from landscape import command
from landscape.data import Images
from landscape.objective import Objective
from landscape.randomness import generator
from landscape.surface import directions, plane
from landscape.surface.cells import Cells

CLASSES = 100


class Block(nn.Module):
    """Two convolutions and a shortcut."""

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
        """Features (N, C, H, W) to (N, C', H / stride, W / stride)."""
        inner = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(features)))))
        return torch.relu(inner + self.shortcut(features))


def resnet20() -> nn.Module:
    blocks: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    width = 16
    for stage, outputs in enumerate((16, 32, 64)):
        for place in range(3):
            blocks.append(Block(width, outputs, 2 if stage and place == 0 else 1))
            width = outputs
    net = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES))
    source = generator(0, "benchmark")
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() > 1:
                scale = (2 / parameter[0].numel()) ** 0.5
                parameter.copy_(torch.randn(parameter.shape, generator=source) * scale)
            else:
                # `loss-landscapes` divides by the norm of every single bias.
                parameter.add_(torch.randn(parameter.shape, generator=source) * 0.1)
    return net.eval()


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


def papers(net: nn.Module, images: Tensor, labels: Tensor, batch: int = 128) -> Callable[[], object]:
    """The procedure of Park & Kim: a new state dict a cell, every metric recomputed on the host after every batch."""
    net = copy.deepcopy(net)
    start = copy.deepcopy(net.state_dict())
    axes = [{name: torch.randn(value.shape) * 1e-3 for name, value in net.named_parameters()} for _ in range(2)]
    cutoffs, bins = (0.0, 0.9), 10

    def run() -> object:
        moved = copy.deepcopy(start)
        for axis in axes:
            for name, step in axis.items():
                moved[name] = moved[name] + 0.1 * step
        net.load_state_dict(moved)
        confusion = [np.zeros((2, 2)) for _ in cutoffs]
        matrix = [np.zeros((CLASSES, CLASSES)) for _ in cutoffs]
        counted, correct, confident = np.zeros(bins), np.zeros(bins), np.zeros(bins)
        losses: list[float] = []
        brier: list[float] = []
        found: dict[str, object] = {}
        with torch.no_grad():
            for xs, ys in zip(images.split(batch), labels.split(batch), strict=True):
                probabilities = torch.softmax(net(xs), -1)
                losses.append(float(nn.functional.nll_loss(torch.log(probabilities), ys)))
                p, y = probabilities.numpy(), ys.numpy()
                brier.append(float(np.mean(np.sum((p - np.eye(CLASSES)[y]) ** 2, -1))))
                confidence, predicted = p.max(-1), p.argmax(-1)
                right = predicted == y
                for place, cutoff in enumerate(cutoffs):
                    sure = confidence > cutoff
                    confusion[place] += [
                        [(right & sure).sum(), (right & ~sure).sum()],
                        [(~right & sure).sum(), (~right & ~sure).sum()],
                    ]
                    np.add.at(matrix[place], (y[sure], predicted[sure]), 1)
                for number in range(bins):
                    inside = (confidence > number / bins) & (confidence <= (number + 1) / bins)
                    counted[number] += inside.sum()
                    correct[number] += right[inside].sum()
                    confident[number] += confidence[inside].sum()
                shares = counted / max(counted.sum(), 1)
                with np.errstate(invalid="ignore", divide="ignore"):
                    gaps = np.nan_to_num(np.abs(correct - confident) / counted)
                    overlap = [m.diagonal() / (m.sum(0) + m.sum(1) - m.diagonal()) for m in matrix]
                    found = {
                        "nll": np.mean(losses),
                        "brier": np.mean(brier),
                        "accuracy": [c[0, 0] / c[:, 0].sum() for c in confusion],
                        "uncertain": [c[1, 1] / c[1].sum() for c in confusion],
                        "frequency": [c[:, 0].sum() / c.sum() for c in confusion],
                        "iou": [np.nanmean(o) for o in overlap],
                        "ece": float((shares * gaps).sum()),
                    }
        return found

    return run


def library(net: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], object]:
    """``loss-landscapes`` as its documentation uses it: all data as the one batch of its `Loss` metric."""
    import loss_landscapes
    from loss_landscapes.metrics import Loss

    metric = Loss(nn.CrossEntropyLoss(), images, labels)
    net = copy.deepcopy(net)
    # One call measures steps^2 cells: 2 x 2 here, so that a share of a call's overhead is in every cell, as in 21 x 21.
    return lambda: loss_landscapes.random_plane(net, metric, 1, 2, normalization="filter", deepcopy_model=True)


def made_up(count: int) -> Images:
    source = generator(0, "images")
    images = torch.randn(count, 3, 32, 32, generator=source)
    return Images(images, torch.randint(CLASSES, (count,), generator=source), CLASSES, "made-up", "train")


def compare(cells: int, count: int) -> None:
    net, data = resnet20(), made_up(count)
    ways: dict[str, tuple[Callable[[], object], int]] = {}
    for batch in (32, 64, 100, 128, 256):
        ways[f"plain forward, folded, channels-last, batches of {batch}"] = (floor(net, data.images, batch), 1)
    objective = Objective(net, data, weight_decay=5e-4)
    axes = directions.random_directions(objective)
    error: dict[str, float] = {}
    exact = 0.0
    for precision in ("full", "bfloat16"):
        made = Cells(objective, axes, precision=precision)
        place = (0.1, -0.1)
        controls = made.losses(place, number=0)[:, None]
        found = float(controls.mean())
        exact = found if precision == "full" else exact
        error[precision] = abs(found - exact) / exact

        def ours(made: Cells = made, place: tuple[float, float] = place, controls: Tensor = controls) -> object:
            return made.measure(place, number=0, controls=controls)

        ways[f"a cell, {precision} precision, micro-batches of {made.inference.micro_batch}"] = (ours, 1)
    ways["the paper's procedure"] = (papers(net, data.images, data.labels), 1)
    ways["loss-landscapes"] = (library(net, data.images, data.labels), 4)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for run, _ in ways.values():
        run()
    for _ in range(cells):
        for name, (run, each) in ways.items():
            started = time.perf_counter()
            run()
            seconds[name].append((time.perf_counter() - started) / each)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    lowest = min(value for name, value in medians.items() if name.startswith("plain"))
    slow = medians["the paper's procedure"]
    rows = [
        [name, f"{1e3 * value:.0f}", f"{441 * value:.0f}", f"{value / lowest:.2f}", f"{slow / value:.2f}"]
        for name, value in medians.items()
    ]
    print(command.columns(["way", "ms a cell", "s for 21 x 21", "x floor", "paper's / this"], rows))
    print(f"relative error of the loss in bfloat16 on this net: {error['bfloat16']:.2g}")


def sampling(checkpoint: str, points: int, wanted: str) -> None:
    """What ``--stderr`` saves on all images, and how often the stated interval holds."""
    from landscape.surface.cli import parser

    arguments = parser().parse_args([checkpoint, "--images", "all"])
    (subject,) = command.subjects(arguments)
    objective = command.objective(arguments, subject)
    axes = directions.random_directions(objective)
    full = plane(objective, directions=axes, points=points, quiet=False)
    inside, total, saved = 0, 0, []
    for seed in range(5):
        some = plane(objective, directions=axes, points=points, stderr=wanted, seed=seed, quiet=False)
        error, off = some.loss_stderr.values, np.abs(some.loss.values - full.loss.values)
        # What is measured on all images is exact, and no evidence.
        sampled = error > 1e-3 * np.median(error)
        inside += int((off[sampled] <= 1.96 * error[sampled]).sum())
        total += int(sampled.sum())
        saved.append(objective.images / some.attrs["images_sampled"])
        print(f"seed {seed}: {some.attrs['images_sampled']} images, largest error {off.max():.3g} nats")
    print(f"range {float(full.loss.max() - full.loss.min()):.4g} nats, wanted {wanted} of it")
    print(f"images saved: {min(saved):.3g} to {max(saved):.3g} times; 95 % intervals hold in {inside} of {total} cells")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--cells", type=int, default=7)
    arguments.add_argument("--images", type=int, default=1000)
    arguments.add_argument("--sampling", metavar="CKPT")
    arguments.add_argument("--points", type=int, default=5)
    arguments.add_argument("--stderr", default="1%")
    given = arguments.parse_args()
    if given.sampling:
        sampling(given.sampling, given.points, given.stderr)
    else:
        compare(given.cells, given.images)


if __name__ == "__main__":
    main()
