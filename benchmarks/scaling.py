"""How the cost of a Hessian-vector product grows: with images, parameters, vectors at once, and processes.

    python benchmarks/scaling.py --draw docs/pictures/scaling.png     # about ten minutes on 2 cores

ResNet-18 on CIFAR-100, weights at random (the cost does not depend on them), graphs recomputed, so that memory decides
nothing. Under 1, 2 and 4 processes (gloo) of one thread each a product and a loss surface are timed, and their numbers
compared: cells of a surface agree to the bit, sums over shards of the images to rounding.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from landscape import command, data, nets, plotting
from landscape.compute import distributed
from landscape.compute.randomness import generator
from landscape.objective import CurvatureOperator, Objective
from landscape.store.protocol import Protocol
from landscape.surface import plane

IMAGES, WIDTH = 256, 16
PANELS = {
    "images": "images",
    "parameters": "parameters",
    "vectors": "vectors at once,\nper vector",
    "processes": "processes,\none thread each",
}


def objective(images: int = IMAGES, width: int = WIDTH, *, sharded: bool = False) -> Objective:
    """The loss of an untrained network on training images."""
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(generator(0, "scaling").get_state())
        net = nets.build("resnet_dnn_18", num_classes=100, width=width)
    whole = data.load("cifar100", "train").subset(images, seed=0)
    return Objective(net, whole, protocol=Protocol(), memory=0, sharded=sharded)


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Median, after one warm-up."""
    times = []
    for number in range(repeats + 1):
        started = time.perf_counter()
        run()
        times += [time.perf_counter() - started] if number else []
    return statistics.median(times)


def product(of: Objective, repeats: int, vectors: int = 1) -> float:
    """Seconds of a product with each vector of a block."""
    operator = CurvatureOperator(of)
    shape = (operator.size,) if vectors == 1 else (operator.size, vectors)
    block = torch.randn(shape, generator=generator(0, "scaling vectors"))
    return seconds(lambda: operator(block), repeats) / vectors


def worker(out: Path, repeats: int) -> None:
    """One of several processes: the first one writes times and numbers."""
    device = distributed.start(torch.device("cpu"))
    try:
        of = objective(4 * IMAGES, sharded=True)
        operator = CurvatureOperator(of)
        vector = torch.randn(operator.size, generator=generator(0, "scaling vectors"), device=device)
        facts: dict[str, Any] = {"product": seconds(lambda: operator(vector), repeats)}
        cells = objective(IMAGES)
        facts["surface"] = seconds(lambda: plane(cells, points=5, span=0.1), 1)
        losses = plane(cells, points=5, span=0.1)["loss"].values
        if distributed.is_main():
            np.save(out / "product.npy", operator(vector).numpy())
            facts["surface_sha256"] = hashlib.sha256(losses.tobytes()).hexdigest()
            (out / "facts.json").write_text(json.dumps(facts))
        else:
            operator(vector)
    finally:
        distributed.stop()


def processes(count: int, repeats: int) -> tuple[dict[str, Any], np.ndarray]:
    """What `worker` says under so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        own = [__file__, "--worker", folder, "--repeats", str(repeats)]
        subprocess.run([*launcher, *own], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        return json.loads((Path(folder) / "facts.json").read_text()), np.load(Path(folder) / "product.npy")


def measure(repeats: int) -> dict[str, Any]:
    """Seconds per product by what it grows with."""
    facts: dict[str, Any] = {"threads": torch.get_num_threads()}
    facts["images"] = {count: product(objective(count), repeats) for count in (64, 128, 256, 512, 1024)}
    by_width = {}
    for width in (4, 8, 16, 32):
        of = objective(width=width)
        by_width[CurvatureOperator(of).size] = product(of, repeats)
    facts["parameters"] = by_width
    facts["vectors"] = {count: product(objective(), repeats, count) for count in (1, 2, 4, 8)}
    several = {count: processes(count, repeats) for count in (1, 2, 4)}
    alone, reference = several[1]
    facts["processes"] = {count: each["product"] for count, (each, _) in several.items()}
    facts["surface"] = {count: each["surface"] for count, (each, _) in several.items()}
    facts["same_cells"] = all(each["surface_sha256"] == alone["surface_sha256"] for each, _ in several.values())
    facts["difference"] = {
        count: float(np.linalg.norm(vector - reference) / np.linalg.norm(reference))
        for count, (_, vector) in several.items()
    }
    return facts


def draw(facts: dict[str, Any], path: Path) -> Path:
    """Seconds per product against each, dotted where it would be proportional (for processes: inversely)."""
    with plotting.style():
        figure = plotting.figure(plotting.TWO_COLUMNS, 2.3)
        panels = figure.subplots(1, len(PANELS))
        for axes, (name, label) in zip(panels, PANELS.items(), strict=True):
            at, values = np.array([*facts[name]], float), np.array([*facts[name].values()])
            axes.plot(at, values, "o-", color=plotting.COLORS[0], label="measured")
            if name != "vectors":
                ideal = at / at[0] if name != "processes" else at[0] / at
                axes.plot(at, values[0] * ideal, ":", color=plotting.PUBLISHED, label="proportional")
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlabel(label)
            axes.set_xticks(at, [f"{value:,.0f}" if value < 1e5 else f"{value / 1e6:.1f}M" for value in at])
            axes.minorticks_off()
            low, high = axes.get_ylim()
            steps = (1, 2, 5) if high / low > 5 else (1, 1.2, 1.5, 2, 3, 4, 5, 6, 8)
            ticks = [step * 10.0**power for power in range(-2, 4) for step in steps if low < step * 10.0**power < high]
            axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        panels[0].set_ylabel("seconds per product")
        plotting.letter(panels)
        plotting.below(figure, panels[0])
        return plotting.save(figure, path, {"threads": facts["threads"], "command": "benchmarks/scaling.py"})


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--draw", type=Path, metavar="FILE")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker is not None:
        worker(arguments.worker, arguments.repeats)
        return
    facts = measure(arguments.repeats)
    for name, label in {**PANELS, "surface": "processes: surface of 25 cells"}.items():
        rows = [[str(at), f"{value:.3g}"] for at, value in facts[name].items()]
        print(f"{command.columns([' '.join(label.split()), 's'], rows)}\n")
    print(f"cells the same to the bit: {facts['same_cells']}; products differ by {facts['difference']}")
    if arguments.draw is not None:
        print(draw(facts, arguments.draw))


if __name__ == "__main__":
    main()
