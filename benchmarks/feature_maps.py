"""Time and memory of the feature-map instrument against plain forward passes.

``python benchmarks/feature_maps.py [--passes 50] [--images 64] [--width 64]``: seconds of `feature_maps.measure` over
those of as many plain forward passes with the framework's own dropout, interleaved; and the peak memory of this many
passes over that of two, each in a process of its own.
"""

import argparse
import copy
import resource
import subprocess
import sys
import time

import torch
from torch import Tensor, nn

from landscape import feature_maps, nets
from landscape.compute.randomness import generator
from landscape.data import Images
from landscape.nets import MCDropout
from landscape.store.protocol import Protocol


class FrameworkDropout(nn.Module):
    """``functional.dropout``, always on."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, features: Tensor) -> Tensor:
        """Drop elements."""
        return nn.functional.dropout(features, self.rate, training=True)


def random_images(count: int) -> Images:
    pixels = torch.randn(count, 3, 32, 32, generator=generator(0, "benchmark"))
    return Images(images=pixels, labels=torch.zeros(count, dtype=torch.int64), classes=100, name="random", split="test")


def network(width: int, *, own_masks: bool = True) -> nn.Module:
    model = nets.build("resnet_mcdo_18", num_classes=100, width=width).eval()
    if not own_masks:
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, MCDropout):
                    setattr(module, name, FrameworkDropout(0.3))
    return model


def ours(model: nn.Module, images: Images, passes: int) -> None:
    feature_maps.measure(model, images, protocol=Protocol(dropout="fresh", split="test"), passes=passes)


@torch.no_grad()
def plain(model: nn.Module, pixels: Tensor, passes: int) -> None:
    for _ in range(passes):
        model(pixels)


def seconds(work: object, *arguments: object) -> float:
    started = time.perf_counter()
    work(*arguments)  # type: ignore[operator]
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passes", type=int, default=50)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", choices=("time", "memory", "peak"))
    arguments = parser.parse_args()
    model, images = network(arguments.width), random_images(arguments.images)
    if arguments.only == "peak":
        ours(model, images, arguments.passes)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        return
    if arguments.only != "memory":
        references = {"": network(arguments.width, own_masks=False)}
        plain = copy.deepcopy(references[""])
        references[" channels last"] = plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        ours(model, images, 2)
        for _ in range(arguments.rounds):
            own_seconds = seconds(ours, model, images, arguments.passes)
            print(f"{arguments.passes} passes over {arguments.images} images: {own_seconds:.1f} s", flush=True)
            for layout, reference in references.items():
                pixels = images.batch(0, arguments.images)
                if layout:
                    pixels = pixels.contiguous(memory_format=torch.channels_last)
                plain(reference, pixels, 1)
                taken = seconds(plain, reference, pixels, arguments.passes)
                print(f"  {own_seconds / taken:.2f} times plain forward passes{layout} ({taken:.1f} s)", flush=True)
    if arguments.only != "time":
        sizes = ["--images", str(arguments.images), "--width", str(arguments.width)]
        peaks = []
        for passes in (2, arguments.passes):
            command = [sys.executable, __file__, "--only", "peak", "--passes", str(passes), *sizes]
            peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print(f"peak memory {peaks[0]} MiB at 2 passes, {peaks[1]} at {arguments.passes}: {peaks[1] / peaks[0]:.2f}")


if __name__ == "__main__":
    main()
