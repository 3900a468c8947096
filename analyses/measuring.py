"""Instruments as data: what is measured of a checkpoint, under which protocol, kept as one result each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray

from landscape import checkpoint, data, feature_maps, fourier, frequency_noise, predictions, surface
from landscape.checkpoint import Checkpoint
from landscape.command import Question, Subject, journaled
from landscape.data import Images
from landscape.eigen import eigenpairs
from landscape.hessian.mini_batches import mini_batch_spectra
from landscape.hessian.over_masks import MeanOperator
from landscape.hessian.sampling import sampling
from landscape.hessian.sharpness import ScaledOperator, filter_norms
from landscape.objective import CurvatureOperator, Objective
from landscape.objective.objective import examples
from landscape.robustness import choices, cifar_files, corrupted, corruptions
from landscape.store.journal import Journal
from landscape.store.protocol import Protocol


@dataclass(frozen=True)
class Scale:
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


SCALES: dict[str, Scale] = {
    # Three networks of three seeds in minutes; the error bars say what the small samples cost.
    "digits": Scale(128, 8, 2, 128, 7, 160, 8, 360, 20, 2, 120, 4),
    "cifar100-small": Scale(256, 96, 2, 128, 21, 256, 8, 2000, 20, 4, 256, 4),
    # About 5 minutes of one core a network: more of its 5,000 and 1,000 images than above where they are cheap.
    "converged": Scale(512, 128, 2, 192, 21, 500, 10, 1000, 50, 4, 500, 4),
    "paper": Scale(2000, 200, 5, 2000, 21, 1000, 50, 10_000, 50, 10, 2000, 10, span=1.0),
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
class Instrument:
    """One measurement.

    Attributes
    ----------
    name
        Folder of its results, the module that measures first.
    protocol
        With the numbers of images of a scale.
    settings
        What of the scale and of the number of masks it depends on.
    measure
        (subject, settings, journal) -> result.
    """

    name: str
    protocol: Callable[[Scale], Protocol]
    settings: Callable[[Scale, int], Mapping[str, Any]]
    measure: Callable[[Subject, Mapping[str, Any], Journal], xarray.Dataset]


def _objective(subject: Subject) -> Objective:
    return Objective(
        subject.checkpoint.model, subject.data, weight_decay=subject.weight_decay, protocol=subject.protocol
    )


def _hessian(subject: Subject, settings: Mapping[str, Any], journal: Journal) -> xarray.Dataset:
    """The largest eigenvalues, what their numerical error is and what the choice of images costs."""
    curvature = CurvatureOperator(_objective(subject))
    # No search for further copies of an eigenvalue: which of equal ones comes first does not matter here.
    pairs = eigenpairs(curvature, settings["top"], tolerance=TOLERANCE, confidence=0)
    # To first order the largest eigenvalue is the mean of these over the images, whichever they are.
    groups = CurvatureOperator(curvature.objective, micro_batch=settings["group"])
    quotients = groups.batch_projections(pairs.vectors[:, :1])[0][:, 0, 0]
    return xarray.Dataset(
        {
            "eigenvalue": ("rank", pairs.values),
            "residual": ("rank", pairs.residuals),
            **sampling(curvature, pairs.values, pairs.vectors).variables(),
            "quotient_of_group": ("group", quotients.cpu().numpy()),
        }
    )


def _mini_batches(subject: Subject, settings: Mapping[str, Any], journal: Journal) -> xarray.Dataset:
    return mini_batch_spectra(_objective(subject), tolerance=TOLERANCE, journal=journal, **settings)


def _curvature(subject: Subject, settings: Mapping[str, Any], journal: Journal) -> xarray.Dataset:
    """Largest eigenvalue of the Hessian, raw and filter-normalised, of the loss meaned over masks.

    With ``l2_shift``, the first-order share of the L2 term in each: exact for the raw one, an underestimate of second
    order for the other (the largest eigenvalue is convex in the matrix).
    """
    objective = _objective(subject)
    parts = [CurvatureOperator(objective, sample=sample) for sample in range(settings["masks"])]
    mean = MeanOperator(parts)
    scale = filter_norms(objective)
    found: dict[str, tuple[float, float, float]] = {}
    for name, operator, squares in (
        ("raw", mean, torch.ones_like(scale)),
        ("filter-normalised", ScaledOperator(mean, scale), scale.square()),
    ):
        pairs = eigenpairs(operator, 1, tolerance=TOLERANCE, confidence=0)
        shift = subject.weight_decay * float((squares * pairs.vectors[:, 0].square()).sum())
        found[name] = (float(pairs.values[0]), float(pairs.residuals[0]), shift)
    columns = np.array(list(found.values())).T
    return xarray.Dataset(
        {name: ("units", column) for name, column in zip(("eigenvalue", "residual", "l2_shift"), columns, strict=True)},
        {"units": list(found)},
    )


def _surface(subject: Subject, settings: Mapping[str, Any], journal: Journal) -> xarray.Dataset:
    return surface.plane(_objective(subject), **settings, journal=journal)


def _of_model(measure: Callable[..., xarray.Dataset]) -> Callable[..., xarray.Dataset]:
    def measured(subject: Subject, settings: Mapping[str, Any], journal: Journal) -> xarray.Dataset:
        return measure(subject.checkpoint.model, subject.data, protocol=subject.protocol, journal=journal, **settings)

    return measured


def _corruptions(subject: Subject, settings: Mapping[str, Any], journal: Journal) -> xarray.Dataset:
    settings = dict(settings)
    folder = settings.pop("cifar_c", "")
    source: corrupted.Source
    if folder:
        source = cifar_files.CifarC(folder, subject.data, protocol=subject.protocol)
        settings["corruptions"] = [name for name in source.names if name in corruptions.STANDARD]
    else:
        source = corruptions.Computed(examples(subject.data, subject.protocol))
    return corrupted.measure(
        subject.checkpoint.model, source, protocol=subject.protocol, journal=journal, quiet=True, **settings
    )


def _corruption_settings(scale: Scale, masks: int) -> Mapping[str, Any]:
    if scale.cifar_c:
        return {"severities": choices.SEVERITIES, "passes": scale.corruption_passes, "cifar_c": scale.cifar_c}
    return {"severities": (1, 3, 5), "passes": scale.corruption_passes}


INSTRUMENTS: dict[str, Instrument] = {
    "hessian": Instrument(
        "hessian",
        lambda scale: TRAINED.replace(images=scale.curvature_images),
        lambda scale, masks: {"top": 1, "group": QUOTIENT_GROUP},
        _hessian,
    ),
    # Of the loss without its L2 term, whose share is told apart.
    "curvature": Instrument(
        "hessian",
        lambda scale: TRAINED.replace(images=scale.curvature_images, l2="none"),
        lambda scale, masks: {"masks": masks},
        _curvature,
    ),
    "mini_batches": Instrument(
        "hessian",
        # A seeded sample stands in random order: consecutive images make mini-batches.
        lambda scale: TRAINED.replace(images=scale.mini_batches * MINI_BATCH),
        lambda scale, masks: {"per_batch": MINI_BATCH, "top": scale.eigenvalues, "masks": masks},
        _mini_batches,
    ),
    "surface": Instrument(
        "surface",
        lambda scale: TRAINED.replace(images=scale.surface_images, dropout="fresh"),
        lambda scale, masks: {
            "points": scale.points,
            "span": scale.span,
            "passes": masks,
            "keep_losses": True,
        },
        _surface,
    ),
    # Predictions on the training set, augmented as in training: whether a network fits worse, not generalises worse.
    "training": Instrument(
        "predictions",
        lambda scale: STOCHASTIC.replace(images=scale.prediction_images, split="train", augmentation="frozen"),
        lambda scale, masks: {"passes": 2},
        _of_model(predictions.measure),
    ),
    "feature_maps": Instrument(
        "feature_maps",
        lambda scale: STOCHASTIC.replace(images=scale.test_images),
        lambda scale, masks: {"passes": scale.passes},
        _of_model(feature_maps.measure),
    ),
    "fourier": Instrument(
        "fourier",
        lambda scale: STOCHASTIC.replace(images=scale.test_images),
        lambda scale, masks: {"passes": scale.passes, "of_image": True},
        _of_model(fourier.measure),
    ),
    "frequency_noise": Instrument(
        "frequency_noise",
        lambda scale: STOCHASTIC.replace(images=scale.test_images),
        lambda scale, masks: {"passes": scale.noise_passes},
        _of_model(frequency_noise.measure),
    ),
    "predictions": Instrument(
        "predictions",
        lambda scale: STOCHASTIC.replace(images=scale.prediction_images),
        lambda scale, masks: {"passes": scale.prediction_passes},
        _of_model(predictions.measure),
    ),
    "corruptions": Instrument(
        "robustness",
        lambda scale: STOCHASTIC.replace(images=scale.corruption_images),
        _corruption_settings,
        _corruptions,
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
        """The network in a file, loaded once."""
        return _loaded(path, self.model, self.num_classes)

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
def _loaded(path: Path, model: str | None, num_classes: int | None) -> Checkpoint:
    return checkpoint.load(path, model=model, num_classes=num_classes)


@cache
def _images(source: str, split: str, root: Path | None) -> Images:
    return data.load(source, split, root=root)


def ask(
    path: Path,
    instrument: str,
    scale: Scale,
    *,
    origin: Origin | None = None,
    device: str = "cpu",
    changes: Mapping[str, Any] | None = None,
    masks: int = 1,
) -> Question:
    """The question that an instrument at a scale asks of a checkpoint; its `path` is where the answer is kept.

    Parameters
    ----------
    path
        The checkpoint.
    instrument
        One of `INSTRUMENTS`.
    scale
        How much is measured; counts beyond what the data hold mean all images.
    origin
        What the checkpoint does not say of itself.
    device
        Class of device.
    changes
        Fields of the protocol to change.
    masks
        Draws of the masks that curvature and loss are the mean of.
    """
    chosen = INSTRUMENTS[instrument]
    protocol = chosen.protocol(scale).replace(**{"device": device, **dict(changes or {})})
    subject = (origin or Origin()).subject(path, protocol)
    settings = {"measure": instrument, **chosen.settings(scale, masks)}
    return Question(f"landscape.{chosen.name}", subject, settings, seed=0)


def measured(asked: Question, *, force: bool = False) -> xarray.Dataset:
    """The answer, from the cache or measured now: interrupted anywhere, the next call goes on."""
    settings = {name: value for name, value in asked.settings.items() if name != "measure"}
    chosen = INSTRUMENTS[asked.settings["measure"]]
    return journaled(asked, lambda journal: chosen.measure(asked.subject, settings, journal), force=force)
