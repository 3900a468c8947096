"""Monte-Carlo passes against a plain loop over forward passes with the same masks, in one interleaved run.

    python benchmarks/predictions.py                          # about a minute on 2 cores
    python benchmarks/predictions.py --width 64 --model resnet_mcdo_smoothing_18

The plain loop is given the batch size that suits it best. Times are medians over interleaved repeats of `--passes`
passes over `--images` random images, random weights (neither changes the work); trust their ratios. Cost is linear in
images and, past the first pass, in passes.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from landscape import command, nets
from landscape.compute.masks import Masks
from landscape.compute.randomness import generator
from landscape.data import Images
from landscape.predictions import Predictor


def plain(model: nn.Module, images: Images, passes: int, batch: int) -> Tensor:
    """Log-probabilities (T, N, C) of whole forward passes, one after the other."""
    outputs = []
    with torch.no_grad(), Masks.addressed() as masks:
        for sample in range(passes):
            for start in range(0, len(images), batch):
                masks.address(first_example=start, sample=sample)
                outputs.append(model(images.batch(start, start + batch)))
    return torch.cat(outputs).view(passes, len(images), -1).double().log_softmax(-1)


def shared(predictor: Predictor, images: Images, passes: int) -> Tensor:
    """The same by the predictor."""
    parts = [
        predictor.passes(predictor.images(images, start, stop), start, range(passes))
        for start, stop in predictor.batches(0, len(images))
    ]
    return torch.cat(parts, dim=1)


def main() -> None:
    """Print one line a way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet_mcdo_18")
    parser.add_argument("--width", type=command.positive, default=16)
    parser.add_argument("--images", type=command.positive, default=128)
    parser.add_argument("--passes", type=command.positive, default=10)
    parser.add_argument("--repeats", type=command.positive, default=7)
    arguments = parser.parse_args()
    count, passes = arguments.images, arguments.passes
    model = nets.build(arguments.model, num_classes=100, width=arguments.width).eval()
    source = generator(0, "benchmark")
    images = Images(
        images=torch.randint(0, 256, (count, 3, 32, 32), generator=source, dtype=torch.uint8),
        labels=torch.zeros(count, dtype=torch.int64),
        classes=100,
        name="random",
        split="test",
    )
    predictor = Predictor(model, images)
    ways: dict[str, Callable[[], Tensor]] = {
        f"plain, batches of {batch}": functools.partial(plain, model, images, passes, batch)
        for batch in (16, 32, 64, 128)
    }
    ours = f"landscape.predictions, batches of {predictor.batch}"
    ways[ours] = functools.partial(shared, predictor, images, passes)
    error = float((ways[ours]() - plain(model, images, passes, 128)).abs().max())
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.repeats):
        for name, run in ways.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    best = min(value for name, value in medians.items() if name != ours)
    for name, value in medians.items():
        each = 1e3 * value / passes / count
        print(f"{name:42s} {each:7.3f} ms an image and pass   {value / best:5.2f} of the best plain")
    print(f"largest difference of a log-probability: {error:.1e}")


if __name__ == "__main__":
    main()
