"""What studies, audits and claims measure of a checkpoint: requests to the instruments, as data."""

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import xarray

from landscape import checkpoint, command, data
from landscape.checkpoint import Checkpoint
from landscape.command import Subject
from landscape.data import Images
from landscape.feature_maps import cli as feature_maps
from landscape.fourier import cli as fourier
from landscape.frequency_noise import cli as frequency_noise
from landscape.hessian import cli as hessian
from landscape.predictions import cli as predictions
from landscape.robustness import cli as robustness, corruptions
from landscape.series import cli as series
from landscape.store.protocol import Protocol
from landscape.surface import cli as surface


@dataclass(frozen=True)
class SampleSizes:
    """How much is measured.

    Attributes
    ----------
    curvature_images
        Training images behind the Hessian of the whole data.
    mini_batches
        Mini-batches of 16 images whose top eigenvalues make the max-eigenvalue spectrum.
    eigenvalues
        Of each mini-batch; 5 in the paper.
    surface_images, points, span
        Of the loss surface.
    test_images, passes
        Test images and Monte-Carlo passes of maps and spectra.
    prediction_images, prediction_passes
        Of the ensemble-size curve.
    noise_passes, corruption_images, corruption_passes
        Of frequency-band noise, and of corruptions.
    cifar_c
        Folder of the published CIFAR-C files; without it, corruptions are those that are computed here.
    """

    curvature_images: int
    mini_batches: int
    eigenvalues: int
    surface_images: int
    points: int
    test_images: int
    passes: int
    prediction_images: int
    prediction_passes: int
    noise_passes: int
    corruption_images: int
    corruption_passes: int
    span: float = 0.5
    cifar_c: str = ""


SAMPLE_SIZES: dict[str, SampleSizes] = {
    # Three networks of three seeds in minutes; the error bars say what the small samples cost.
    "digits": SampleSizes(128, 8, 2, 128, 7, 160, 8, 360, 20, 2, 120, 4),
    **dict.fromkeys(
        ("cifar100-small", "cifar100-medium"), SampleSizes(256, 96, 2, 128, 21, 256, 8, 2000, 20, 4, 256, 4)
    ),
    # About 5 minutes of one core per network: more of its 5,000 and 1,000 images than above where they are cheap.
    "converged": SampleSizes(512, 128, 2, 192, 21, 500, 10, 1000, 50, 4, 500, 4),
    "paper": SampleSizes(2000, 200, 5, 2000, 21, 1000, 50, 10_000, 50, 10, 2000, 10, span=1.0),
}

# The training objective as it was trained: L2, augmented images and, in MC-dropout networks, masks (one draw, kept).
TRAINED = Protocol(dropout="fixed", augmentation="frozen", split="train")
STOCHASTIC = Protocol(dropout="fresh", split="test")
# As in the follow-up paper.
MINI_BATCH = 16
# Relative error of eigenvalues: far below their spread over mini-batches and seeds.
TOLERANCE = 0.02
# Images whose Rayleigh quotient is kept as one number, for resampling: single ones would cost four times as much.
QUOTIENT_GROUP = 4


@dataclass(frozen=True)
class Request:
    """What studies ask an instrument for: a command line as data, so that both share one cache.

    Attributes
    ----------
    instrument
        The record that is asked.
    protocol
        (sizes) -> protocol, with the numbers of images.
    flags
        (sizes, draws of the masks that curvature and loss are the mean of) -> flags of the instrument.
    answer
        (arguments, subject) -> dataset, one of several that an instrument keeps; its result by default.
    averaged
        Fields of the protocol when it takes the mean over several draws of the masks, where a flag alone does not.
    """

    instrument: command.Instrument
    protocol: Callable[[SampleSizes], Protocol]
    flags: Callable[[SampleSizes, int], Sequence[str]]
    answer: Callable[[Namespace, Subject], xarray.Dataset] | None = None
    averaged: Mapping[str, Any] = field(default_factory=dict)


def _flags(**values: object) -> list[str]:
    """Flags by name: ``top=1`` is ``--top 1``, ``keep_losses=True`` is ``--keep-losses``."""
    return [
        word
        for name, value in values.items()
        for word in (f"--{name.replace('_', '-')}", *([] if value is True else [str(value)]))
    ]


def _corruption_flags(sizes: SampleSizes, masks: int) -> list[str]:
    passes = _flags(only="corruptions", passes=sizes.corruption_passes)
    if not sizes.cifar_c:
        return [*passes, *_flags(severities="1,3,5")]
    names = [name for name in corruptions.STANDARD if (Path(sizes.cifar_c) / f"{name}.npy").is_file()]
    return [*passes, *_flags(cifar_c=sizes.cifar_c), *(_flags(corruptions=",".join(names)) if names else [])]


REQUESTS: dict[str, Request] = {
    "hessian": Request(
        hessian.INSTRUMENT,
        lambda sizes: TRAINED.replace(images=sizes.curvature_images),
        lambda sizes, masks: _flags(image_groups=QUOTIENT_GROUP, top=1, tolerance=TOLERANCE),
    ),
    # Of the loss without its L2 term, whose part is kept apart.
    "curvature": Request(
        hessian.INSTRUMENT,
        lambda sizes: TRAINED.replace(images=sizes.curvature_images, l2="none"),
        lambda sizes, masks: _flags(mean_hessian=masks, tolerance=TOLERANCE),
    ),
    "series": Request(
        series.INSTRUMENT,
        lambda sizes: TRAINED.replace(images=sizes.curvature_images),
        lambda sizes, masks: [*_flags(only="loss"), *_flags(only="top"), *_flags(only="trace")],
    ),
    "mini_batches": Request(
        hessian.INSTRUMENT,
        # A seeded sample stands in random order: consecutive images make mini-batches.
        lambda sizes: TRAINED.replace(images=sizes.mini_batches * MINI_BATCH),
        lambda sizes, masks: _flags(
            per_batch=MINI_BATCH,
            batches=sizes.mini_batches,
            consecutive=True,
            top=sizes.eigenvalues,
            masks=masks,
            tolerance=TOLERANCE,
        ),
    ),
    "surface": Request(
        surface.INSTRUMENT,
        lambda sizes: TRAINED.replace(images=sizes.surface_images, dropout="fresh"),
        lambda sizes, masks: _flags(points=sizes.points, span=sizes.span, passes=masks, keep_losses=True),
        lambda arguments, subject: surface.measured(arguments, subject, seed=arguments.seed),
        averaged={"dropout": "fresh"},
    ),
    # Predictions on the training set, augmented as in training: whether a network fits worse, not generalises worse.
    "training": Request(
        predictions.INSTRUMENT,
        lambda sizes: STOCHASTIC.replace(images=sizes.prediction_images, split="train", augmentation="frozen"),
        lambda sizes, masks: _flags(passes=2),
        predictions.passed,
    ),
    "feature_maps": Request(
        feature_maps.INSTRUMENT,
        lambda sizes: STOCHASTIC.replace(images=sizes.test_images),
        lambda sizes, masks: _flags(passes=sizes.passes),
    ),
    "fourier": Request(
        fourier.INSTRUMENT,
        lambda sizes: STOCHASTIC.replace(images=sizes.test_images),
        lambda sizes, masks: _flags(passes=sizes.passes, keep_curves=True),
    ),
    "frequency_noise": Request(
        frequency_noise.INSTRUMENT,
        lambda sizes: STOCHASTIC.replace(images=sizes.test_images),
        lambda sizes, masks: _flags(passes=sizes.noise_passes),
    ),
    "predictions": Request(
        predictions.INSTRUMENT,
        lambda sizes: STOCHASTIC.replace(images=sizes.prediction_images),
        lambda sizes, masks: _flags(passes=sizes.prediction_passes),
        predictions.passed,
    ),
    "corruptions": Request(
        robustness.INSTRUMENT,
        lambda sizes: STOCHASTIC.replace(images=sizes.corruption_images),
        _corruption_flags,
        lambda arguments, subject: robustness.part_measured(arguments, subject, "corruptions"),
    ),
}


@dataclass(frozen=True)
class Origin:
    """What a checkpoint does not say of itself: the flags of the same names that every command takes.

    Attributes
    ----------
    data, root
        Images, and the folder of the CIFAR archives; default: those that the network was trained on.
    model, num_classes
        Network of weights that do not say which they belong to.
    mean, std
        Normalisation of uint8 images; default: the set's own.
    """

    data: str | None = None
    root: Path | None = None
    model: str | None = None
    num_classes: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def checkpoint(self, path: Path) -> Checkpoint:
        """The network in a file, loaded once, and again when the file is written anew."""
        written = path.stat().st_mtime_ns if path.exists() else 0
        return _loaded(path, written, self.model, self.num_classes)

    def subject(self, path: Path, protocol: Protocol) -> Subject:
        """The network in a file with the images of a protocol; at most as many as there are."""
        loaded = self.checkpoint(path)
        images = _images(self.data or loaded.trained_on(), protocol.split, self.root)
        given = {"image_mean": (self.mean, images.mean), "image_std": (self.std, images.std)}
        changes = {name: mine for name, (mine, own) in given.items() if mine is not None and mine != own}
        protocol = protocol.replace(**changes)
        if protocol.images is not None:
            protocol = protocol.replace(images=min(protocol.images, len(images)))
        images = images.normalized_by(protocol.image_mean, protocol.image_std)
        return Subject(checkpoint=loaded, data=images, protocol=protocol, weight_decay=loaded.weight_decay)


@cache
def _loaded(path: Path, written: int, model: str | None, num_classes: int | None) -> Checkpoint:
    return checkpoint.load(path, model=model, num_classes=num_classes)


@cache
def _images(source: str, split: str, root: Path | None) -> Images:
    return data.load(source, split, root=root)


@dataclass(frozen=True)
class Measurement:
    """A request to one network.

    Attributes
    ----------
    name
        In `REQUESTS`.
    subject
        The network with its images and protocol.
    arguments
        Those of the instrument's command line.
    """

    name: str
    subject: Subject
    arguments: Namespace


def ask(
    path: Path,
    name: str,
    sizes: SampleSizes,
    *,
    origin: Origin | None = None,
    device: str = "cpu",
    changes: Mapping[str, Any] | None = None,
    masks: int = 1,
    before: Sequence[Path] = (),
) -> Measurement:
    """What a request asks of a checkpoint.

    Parameters
    ----------
    path
        The checkpoint.
    name
        One of `REQUESTS`.
    sizes
        How much is measured; counts beyond what the data hold mean all images.
    origin
        What the checkpoint does not say of itself.
    device
        Class of device.
    changes
        Fields of the protocol to change.
    masks
        Draws of the masks that curvature and loss are the mean of.
    before
        Earlier checkpoints of the same training, for a series.
    """
    request = REQUESTS[name]
    changes = {**(changes or {}), **(request.averaged if masks > 1 else {})}
    protocol = request.protocol(sizes).replace(device=device, **changes)
    subject = (origin or Origin()).subject(path, protocol)
    files = [*map(str, before), str(path)]
    arguments = request.instrument.arguments([*files, "--device", device, "--quiet", *request.flags(sizes, masks)])
    return Measurement(name, subject, arguments)


def measured(measurement: Measurement, *, force: bool = False) -> tuple[xarray.Dataset, Path]:
    """The dataset and its file, from the cache or measured now: interrupted anywhere, the next call resumes."""
    arguments = Namespace(**{**vars(measurement.arguments), "force": force, "saved": []})
    request = REQUESTS[measurement.name]
    dataset = (request.answer or request.instrument.result)(arguments, measurement.subject)
    return dataset, arguments.saved[-1]


def measure(force: bool = False, **question: Any) -> None:
    """`measured` of `ask(**question)`, for its file alone: what a worker elsewhere is given to do."""
    measured(ask(**question), force=force)
