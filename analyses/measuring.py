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
from landscape.errors import LandscapeError
from landscape.journal import Journal
from landscape.objective import CurvatureOperator, Objective
from landscape.objective.objective import examples
from landscape.protocol import Protocol
from landscape.randomness import generator
from landscape.robustness import corrupted, corruptions


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


SCALES: dict[str, Scale] = {
    # Three networks of three seeds in minutes; the error bars say what the small samples cost.
    "digits": Scale(128, 8, 1, 128, 7, 160, 8, 360, 20, 2, 120, 4),
    "cifar100-small": Scale(256, 12, 1, 128, 7, 128, 8, 1000, 20, 4, 128, 4),
    "paper": Scale(2000, 200, 5, 2000, 21, 1000, 50, 10_000, 50, 10, 2000, 10, span=1.0),
}

# The training objective as it was trained: L2, augmented images and, in MC-dropout networks, masks (one draw, kept).
TRAINED = Protocol(dropout="fixed", augmentation="frozen", split="train")
STOCHASTIC = Protocol(dropout="fresh", split="test")
# As in the follow-up paper.
MINI_BATCH = 16
# Relative error of eigenvalues: far below their spread over mini-batches and seeds.
TOLERANCE = 0.02


def eigenvalues(
    subject: Subject, *, batches: int, size: int, count: int, seed: int, journal: Journal, device: torch.device | str
) -> xarray.Dataset:
    """The `count` largest Hessian eigenvalues of each of so many batches of `size` images.

    Returns
    -------
    xarray.Dataset
        ``eigenvalue`` and ``residual`` over ``(mini_batch, rank)``, rank 0 the largest. The same batches, drawn without
        replacement, for every network.

    Notes
    -----
    N. Park and S. Kim, ICLR 2022 (arXiv 2202.06709), figure 1 and appendix: Hessian max-eigenvalue spectra, of batches
    of 16.
    """
    chosen = examples(subject.data, subject.protocol)
    if batches * size > len(chosen):
        raise LandscapeError(
            f"{batches} batches of {size} need {batches * size} images, {chosen.name} has {len(chosen)}: ask for fewer"
        )
    order = torch.randperm(len(chosen), generator=generator(seed, "mini-batches"))
    values, residuals = np.empty((batches, count)), np.empty((batches, count))
    protocol = subject.protocol.replace(images=None, augmentation="none")
    for place in range(batches):
        key = f"batch {place}"
        if key not in journal:
            part = chosen.select(order[place * size : (place + 1) * size])
            objective = Objective(
                subject.checkpoint.model, part, weight_decay=subject.weight_decay, protocol=protocol, device=device
            )
            pairs = eigenpairs(CurvatureOperator(objective), count, tolerance=TOLERANCE, seed=seed)
            journal.write(key, {"value": np.array(pairs.values), "residual": np.array(pairs.residuals)})
        values[place], residuals[place] = journal[key]["value"], journal[key]["residual"]
    return xarray.Dataset(
        {
            "eigenvalue": (("mini_batch", "rank"), values, {"long_name": "Hessian eigenvalue"}),
            "residual": (("mini_batch", "rank"), residuals),
        },
        attrs={"images_a_batch": size},
    )


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
        What of the scale it depends on.
    measure
        (subject, settings, journal) -> result.
    """

    name: str
    protocol: Callable[[Scale], Protocol]
    settings: Callable[[Scale], Mapping[str, Any]]
    measure: Callable[[Subject, Mapping[str, Any], Journal], xarray.Dataset]


def _objective(subject: Subject) -> Objective:
    return Objective(
        subject.checkpoint.model, subject.data, weight_decay=subject.weight_decay, protocol=subject.protocol
    )


def _eigenvalues(subject: Subject, settings: Mapping[str, Any], journal: Journal) -> xarray.Dataset:
    return eigenvalues(subject, **settings, seed=0, journal=journal, device=subject.protocol.device)


def _surface(subject: Subject, settings: Mapping[str, Any], journal: Journal) -> xarray.Dataset:
    return surface.plane(_objective(subject), **settings, journal=journal)


def _of_model(measure: Callable[..., xarray.Dataset]) -> Callable[..., xarray.Dataset]:
    def measured(subject: Subject, settings: Mapping[str, Any], journal: Journal) -> xarray.Dataset:
        return measure(subject.checkpoint.model, subject.data, protocol=subject.protocol, journal=journal, **settings)

    return measured


def _corruptions(subject: Subject, settings: Mapping[str, Any], journal: Journal) -> xarray.Dataset:
    source = corruptions.Computed(examples(subject.data, subject.protocol))
    return corrupted.measure(
        subject.checkpoint.model, source, protocol=subject.protocol, journal=journal, quiet=True, **settings
    )


INSTRUMENTS: dict[str, Instrument] = {
    "hessian": Instrument(
        "hessian",
        lambda scale: TRAINED,
        lambda scale: {"batches": 1, "size": scale.curvature_images, "count": 1},
        _eigenvalues,
    ),
    "mini_batches": Instrument(
        "hessian",
        lambda scale: TRAINED,
        lambda scale: {"batches": scale.mini_batches, "size": MINI_BATCH, "count": scale.eigenvalues},
        _eigenvalues,
    ),
    "surface": Instrument(
        "surface",
        lambda scale: TRAINED.replace(images=scale.surface_images, dropout="fresh"),
        lambda scale: {"points": scale.points, "span": scale.span},
        _surface,
    ),
    "feature_maps": Instrument(
        "feature_maps",
        lambda scale: STOCHASTIC.replace(images=scale.test_images),
        lambda scale: {"passes": scale.passes},
        _of_model(feature_maps.measure),
    ),
    "fourier": Instrument(
        "fourier",
        lambda scale: STOCHASTIC.replace(images=scale.test_images),
        lambda scale: {"passes": scale.passes},
        _of_model(fourier.measure),
    ),
    "frequency_noise": Instrument(
        "frequency_noise",
        lambda scale: STOCHASTIC.replace(images=scale.test_images),
        lambda scale: {"passes": scale.noise_passes},
        _of_model(frequency_noise.measure),
    ),
    "predictions": Instrument(
        "predictions",
        lambda scale: STOCHASTIC.replace(images=scale.prediction_images),
        lambda scale: {"passes": scale.prediction_passes},
        _of_model(predictions.measure),
    ),
    "corruptions": Instrument(
        "robustness",
        lambda scale: STOCHASTIC.replace(images=scale.corruption_images),
        lambda scale: {"severities": (1, 3, 5), "passes": scale.corruption_passes},
        _corruptions,
    ),
}


@cache
def _loaded(path: Path) -> Checkpoint:
    return checkpoint.load(path)


@cache
def images_of(source: str, split: str, root: Path | None) -> Images:
    """Images by name, loaded once."""
    return data.load(source, split, root=root)


def ask(
    path: Path,
    instrument: str,
    scale: Scale,
    *,
    source: str | None = None,
    root: Path | None = None,
    device: str = "cpu",
    changes: Mapping[str, Any] | None = None,
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
    source, root
        Of the images; default: those that it was trained on.
    device
        Class of device.
    changes
        Fields of the protocol to change.
    """
    chosen = INSTRUMENTS[instrument]
    loaded = _loaded(path)
    recipe = loaded.recipe or {}
    source = source or recipe.get("data", {}).get("name")
    if source is None:
        raise LandscapeError(f"{path} does not say what it was trained on: give --data")
    protocol = chosen.protocol(scale).replace(**{"device": device, **dict(changes or {})})
    images = images_of(source, protocol.split, root)
    if protocol.images is not None:
        protocol = protocol.replace(images=min(protocol.images, len(images)))
    weight_decay = float(recipe.get("training", {}).get("weight_decay", 0.0))
    subject = Subject(checkpoint=loaded, data=images, protocol=protocol, weight_decay=weight_decay)
    settings = {"measure": instrument, **chosen.settings(scale)}
    return Question(f"landscape.{chosen.name}", subject, settings, seed=0)


def measured(asked: Question, *, force: bool = False) -> xarray.Dataset:
    """The answer, from the cache or measured now: interrupted anywhere, the next call goes on."""
    settings = {name: value for name, value in asked.settings.items() if name != "measure"}
    chosen = INSTRUMENTS[asked.settings["measure"]]
    return journaled(asked, lambda journal: chosen.measure(asked.subject, settings, journal), force=force)
