"""Accuracy and NLL on images with band-limited noise."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray
from torch import Tensor, nn

from landscape.compute.settings import measurement
from landscape.data import Images
from landscape.errors import LandscapeError
from landscape.frequency_noise.bands import FREQUENCIES, banded, in_ring, ring, white_noise
from landscape.frequency_noise.choices import WIDTH
from landscape.look.comparison import of_same_images
from landscape.look.forward import Passes, of_images
from landscape.metrics import confidence
from landscape.store.journal import Journal
from landscape.store.pieces import Arrays
from landscape.store.protocol import Protocol

ENERGIES = ("given", "matched")


@measurement
def measure(
    model: nn.Module,
    data: Images,
    *,
    protocol: Protocol | None = None,
    frequencies: Sequence[float] | None = None,
    width: float = WIDTH,
    given: float = 1.0,
    matched: float = 0.2,
    passes: int = 5,
    batch: int | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    journal: Journal | None = None,
    quiet: bool = True,
) -> xarray.Dataset:
    r"""Accuracy and NLL on :math:`x_0 + F^{-1}(F(\delta)\,M_f)`, *M_f* a square ring around frequency *f*.

    :math:`\delta` is Gaussian in the units of the network's input (so, for normalised images, of the data's standard
    deviation). Two strengths: ``given``, the same :math:`\delta` for every ring, which holds more energy the more
    frequencies a ring has; ``matched``, scaled so that every ring has the same root mean square in a pixel. The noise
    is the same for every network and nothing is clipped, since clipping would spread it over the spectrum.

    Parameters
    ----------
    model, data, batch, device
        See `Passes`.
    protocol
        See `Passes`; dropout ``fresh`` (the default here) averages the softmax over `passes`, ``off`` switches it off.
    frequencies, width
        Centres and width of the rings, units of pi; None: those multiples of 0.1 of which images of this size have any.
    given
        Standard deviation of :math:`\delta`. Default: as strong as the image.
    matched
        Root mean square of the noise in each ring.
    passes
        Monte-Carlo passes of the averaged prediction, for networks with dropout. The same masks with every noise, so
        that differences are the noise's.
    seed
        Of the noise.
    journal
        Keeps finished pieces.
    quiet
        Show no progress bar.

    Returns
    -------
    xarray.Dataset
        ``clean_accuracy`` and ``clean_nll``; over (energy, frequency): ``accuracy``, ``nll``, ``accuracy_drop`` and
        ``nll_rise`` against the clean images, paired; all with ``_stderr`` over images; ``noise_rms``, the root mean
        square of the noise that was added; and ``correct_of_image``, ``nll_of_image`` (energy, frequency, image) with
        ``clean_correct_of_image``, ``clean_nll_of_image``, for pairing networks. NLL in nats.

    Raises
    ------
    LandscapeError
        For fixed masks, a ring without frequencies, labels beyond the outputs, or what `Passes` refuses.

    Notes
    -----
    N. Park and S. Kim, ICML 2022 (arXiv 2105.12639), figure 6, and ICLR 2022 (arXiv 2202.06709), figure 2b.

    Examples
    --------
    >>> import landscape
    >>> model = landscape.build("resnet_dnn_18", num_classes=10, width=2)
    >>> images = landscape.data.load("digits", "test")
    >>> result = measure(model, images, protocol=landscape.Protocol(split="test", images=8), frequencies=(0.1, 0.9))
    >>> result["accuracy_drop"].sizes
    Frozen({'energy': 2, 'frequency': 2})
    """
    protocol = protocol or Protocol(dropout="fresh", split="test")
    if protocol.dropout == "fixed":
        raise LandscapeError("predictions are over fresh masks, or none: give --dropout fresh or --dropout off")
    runs = Passes(model, data, protocol=protocol, batch=batch, device=device)
    stochastic = protocol.dropout == "fresh" and runs.dropout_calls > 0
    samples = range(passes) if stochastic else range(0)
    _, height, side = data.shape
    frequencies = present(data, width) if frequencies is None else frequencies
    rings = [ring(height, side, frequency, width).to(runs.device) for frequency in frequencies]

    def of_batch(start: int, stop: int) -> Arrays:
        return _batch(runs, start, stop, rings, (given, matched), samples, seed)

    of_image = of_images(runs, of_batch, journal=journal, what="band noise", quiet=quiet)
    result = _whole(of_image, frequencies)
    result.attrs |= {
        "images": len(runs),
        "population": len(data),
        "passes": max(len(samples), 1),
        "dropout_calls": runs.dropout_calls,
        "given": given,
        "matched": matched,
        "width": width,
        "seed": seed,
        "images_sha256": runs.data.sha256,
    }
    return result


def present(data: Images, width: float) -> list[float]:
    """Those of the usual frequencies of which images of this size have any within a ring of that width."""
    _, height, side = data.shape
    return [frequency for frequency in FREQUENCIES if bool(in_ring(height, side, frequency, width).any())]


def _batch(
    runs: Passes,
    start: int,
    stop: int,
    rings: Sequence[Tensor],
    strengths: tuple[float, float],
    samples: Sequence[int],
    seed: int,
) -> dict[str, np.ndarray]:
    """Correctness, NLL and noise of single images, (N, ...)."""
    images, labels = runs.images(start, stop), runs.data.target(start, stop)
    assert isinstance(labels, Tensor)
    white = white_noise(images.shape, seed=seed, first=start).to(runs.device)
    correct, nll = _scores(runs, images, labels, start, samples)
    scores: dict[str, list[Tensor]] = {"correct": [], "nll": [], "power": []}
    for energy, strength in zip(ENERGIES, strengths, strict=True):
        for inside in rings:
            noise = strength * banded(white, inside, matched=energy == "matched")
            noisy = (images + noise.to(images.dtype)).contiguous(memory_format=torch.channels_last)
            right, loss = _scores(runs, noisy, labels, start, samples)
            scores["correct"].append(right)
            scores["nll"].append(loss)
            scores["power"].append(noise.square().mean((1, 2, 3)))
    shape = (stop - start, len(ENERGIES), len(rings))
    whole = {name: torch.stack(values, dim=1).reshape(shape).cpu().numpy() for name, values in scores.items()}
    return whole | {"clean_correct": correct.cpu().numpy(), "clean_nll": nll.cpu().numpy()}


def _scores(runs: Passes, images: Tensor, labels: Tensor, start: int, samples: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Whether the averaged prediction is right, and its NLL, (N,) float64."""
    outputs = runs.stochastic(images, start, samples) if samples else runs.deterministic(images)[None]
    if outputs.dim() != 3 or int(labels.max()) >= outputs.shape[2]:
        raise LandscapeError(
            f"label {int(labels.max())} of {runs.data.name} does not fit outputs of shape {tuple(outputs.shape[1:])}: "
            "give the data that the network was trained on"
        )
    logarithm = outputs.double().log_softmax(2).logsumexp(0) - math.log(len(outputs))
    loss = -logarithm.gather(1, labels[:, None]).squeeze(1)
    # An output that is not a number is neither right nor wrong.
    return (logarithm.argmax(1) == labels).double().masked_fill(logarithm.isnan().any(1), torch.nan), loss


def _whole(of_image: Mapping[str, np.ndarray], frequencies: Sequence[float]) -> xarray.Dataset:
    """The result out of the values of single images."""
    images = len(of_image["clean_nll"])
    variables: dict[str, Any] = {}

    def keep(name: str, values: np.ndarray, what: str) -> None:
        dims = ("energy", "frequency")[: values.ndim - 1]
        variables[name] = (dims, values.mean(0), {"long_name": what})
        stderr = confidence.standard_error(values, 0)
        variables[f"{name}_stderr"] = (dims, stderr, {"long_name": f"standard error over images of: {what}"})

    clean_correct, clean_nll = of_image["clean_correct"], of_image["clean_nll"]
    keep("clean_accuracy", clean_correct, "accuracy without noise")
    keep("clean_nll", clean_nll, "NLL without noise, nats")
    keep("accuracy", of_image["correct"], "accuracy")
    keep("nll", of_image["nll"], "NLL, nats")
    keep("accuracy_drop", clean_correct[:, None, None] - of_image["correct"], "accuracy lost to the noise")
    keep("nll_rise", of_image["nll"] - clean_nll[:, None, None], "NLL added by the noise, nats")
    variables["noise_rms"] = (("energy", "frequency"), np.sqrt(of_image["power"].mean(0)))
    for name in ("correct", "nll"):
        variables[f"{name}_of_image"] = (("energy", "frequency", "image"), of_image[name].transpose(1, 2, 0))
        variables[f"clean_{name}_of_image"] = ("image", of_image[f"clean_{name}"])
    coordinates = {"energy": list(ENERGIES), "frequency": list(frequencies), "image": np.arange(images)}
    return xarray.Dataset(variables, coords=coordinates)


def drop_interval(result: xarray.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the 95 % interval of ``accuracy_drop`` over images (energy, frequency), of what `measure` gives."""
    drop, stderr = (result[name].values for name in ("accuracy_drop", "accuracy_drop_stderr"))
    return confidence.of_paired_share(drop, stderr, result.sizes["image"])


def drops_compared(baseline: xarray.Dataset, other: xarray.Dataset) -> xarray.Dataset:
    """Difference of the accuracy drop and of the NLL rise, other - baseline, paired by image.

    Parameters
    ----------
    baseline, other
        What `measure` gives, for the same images and noise.

    Returns
    -------
    xarray.Dataset
        Over (energy, frequency): ``accuracy_drop`` and ``nll_rise``, each with ``_low`` and ``_high``, the ends of the
        95 % interval over images.

    Raises
    ------
    LandscapeError
        When the images or the noise differ.
    """
    alike = all(baseline.attrs.get(name) == other.attrs.get(name) for name in ("given", "matched", "width", "seed"))
    if not (alike and of_same_images(baseline, other) and np.array_equal(baseline["frequency"], other["frequency"])):
        raise LandscapeError("the two results are of different images or noise: measure both networks alike")
    drops, rises = [], []
    for result in (baseline, other):
        drops.append(result["clean_correct_of_image"] - result["correct_of_image"])
        rises.append(result["nll_of_image"] - result["clean_nll_of_image"])
    compared = {}
    for name, (first, second), interval in (
        ("accuracy_drop", drops, confidence.of_paired_shares),
        ("nll_rise", rises, confidence.of_mean),
    ):
        difference = (second - first).transpose(..., "image")
        compared[name] = difference.mean("image")
        for end, values in zip(("low", "high"), interval(difference.values), strict=True):
            compared[f"{name}_{end}"] = compared[name].copy(data=values)
    return xarray.Dataset(compared)
