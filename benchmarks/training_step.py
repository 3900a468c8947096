"""What augmentation and dropout masks cost of a training step: the promise is at most 15 % together.

``python benchmarks/training_step.py [RECIPE]`` times whole steps of a recipe's network on made-up images, interleaved:
as in training, without augmentation, and with every dropout the identity. Medians over rounds.
"""

import statistics
import sys
import time

import torch
from torch.nn import functional

from landscape import data, nets, training
from landscape.compute.masks import Masks
from landscape.compute.randomness import generator

ROUNDS = 15
PIXELS = {"cifar10": 32, "cifar100": 32, "digits": 16}


def main(name: str = "cifar100-small-mcdo") -> None:
    recipe = training.recipe(name)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    compute = training.precision("auto", device)
    side, batch = PIXELS[recipe.data], recipe.batch
    stream = generator(0, "benchmark")
    images = data.Images(
        images=torch.randint(0, 256, (50 * batch, 3, side, side), generator=stream).to(torch.uint8),
        labels=torch.randint(0, recipe.model["num_classes"], (50 * batch,), generator=stream),
        classes=recipe.model["num_classes"],
        name="made-up",
        split="train",
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    ).to(device)
    model = nets.build(**recipe.model).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4, fused=True)
    drawn = data.draws(len(images), seed=0, padding=4, flip=True).to(device)

    def step(number: int, *, augmented: bool, masked: bool) -> None:
        rows = torch.randperm(len(images), generator=generator(0, number))[:batch].to(device)
        raw = images.images[rows]
        if augmented:
            raw = data.augment(raw, drawn[rows], padding=4)
        inputs = images.normalized(raw).contiguous(memory_format=torch.channels_last)
        masks = Masks.stream(generator(0, "mask", number, device=device)) if masked else Masks.off()
        with masks, torch.autocast(device.type, compute, enabled=compute != torch.float32):
            loss = functional.cross_entropy(model(inputs).float(), images.labels[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    ways = {
        "as in training": {"augmented": True, "masked": True},
        "no augmentation": {"augmented": False, "masked": True},
        "no masks": {"augmented": True, "masked": False},
        "neither": {"augmented": False, "masked": False},
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(ROUNDS + 2):
        for way, settings in ways.items():
            began = time.perf_counter()
            step(number, **settings)
            if number >= 2:
                seconds[way].append(time.perf_counter() - began)
    median = {way: statistics.median(times) for way, times in seconds.items()}
    for way, middle in median.items():
        print(f"{way:16} {1e3 * middle:8.1f} ms a step")
    share = 1 - median["neither"] / median["as in training"]
    print(f"augmentation and masks: {share:.1%} of a step of {name} ({device.type}, {compute})")


if __name__ == "__main__":
    main(*sys.argv[1:])
