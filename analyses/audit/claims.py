"""The claims of the paper about a smoothing layer, as data: what is measured, and which way it should move."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import xarray

from analyses.audit.verdict import Reading
from landscape import metrics
from landscape.compute.randomness import numpy_generator
from landscape.look.comparison import stage_ends
from landscape.predictions.efficiency import crossing
from landscape.surface.summary import rises, roughness

Results = Mapping[str, xarray.Dataset]

REPLICATES = 400
LOWER, HIGHER = -1, 1
# Frequencies from here on are high: the upper half of the axis, units of pi.
HIGH = 0.5


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes
    ----------
    name
        C1 to C10, as CLAIMS.md numbers them.
    statement
        What is claimed of the variant against the baseline.
    measure
        What is measured; effects of logarithms are differences of natural logarithms, so that -0.1 is about 10 % less.
    direction
        `LOWER` or `HIGHER`.
    needs
        Instruments.
    read
        (results of a network, results of the network it is compared with) -> reading.
    stochastic
        Whether it is about Monte-Carlo dropout.
    """

    name: str
    statement: str
    measure: str
    direction: int
    needs: tuple[str, ...]
    read: Callable[[Results, Results], Reading]
    stochastic: bool = False


@cache
def _weights(count: int) -> np.ndarray:
    """(R, N) shares of each of N images in the bootstrap samples, the same for every network."""
    return np.asarray(metrics.bootstrap_weights(count, replicates=REPLICATES)) / count


def mean(values: np.ndarray, *, logarithm: bool = False) -> Reading:
    """Mean of one number an image, (N,), or its logarithm."""
    drawn = _weights(len(values)) @ values
    value = float(values.mean())
    if not logarithm:
        return Reading(value, drawn)
    with np.errstate(divide="ignore", invalid="ignore"):
        return Reading(float(np.log(value)), np.log(drawn))


def exactly(value: float) -> Reading:
    """A number that is no statistic of images."""
    return Reading(value, np.empty(0))


def roughly(value: float, stderr: float) -> Reading:
    """The logarithm of a number whose standard error over images is known but not its bootstrap samples.

    Its replicates are normal, and independent from network to network: what two networks share for having seen the same
    images is not taken off, which widens intervals, on the safe side. They depend on the two numbers alone: measured
    again, a network gets the same interval.
    """
    if not value > 0:
        return exactly(math.nan)
    source = numpy_generator(0, "replicates", float(value).hex(), float(stderr).hex())
    drawn = source.normal(scale=stderr / value, size=REPLICATES)
    return Reading(math.log(value), math.log(value) + drawn)


def top_eigenvalue(own: Results, other: Results) -> Reading:
    """C1."""
    spectrum = own["hessian"]
    return roughly(float(spectrum["eigenvalue"][0]), float(spectrum["sampling_stderr"][0]))


def outliers(own: Results, other: Results) -> Reading:
    """C2: the upper end of the max-eigenvalue spectrum, over bootstrap samples of mini-batches."""
    largest = own["mini_batches"]["eigenvalue"].values[:, 0]
    drawn = metrics.bootstrap_weights(len(largest), replicates=REPLICATES)
    chosen = [np.repeat(largest, np.asarray(row).astype(int)) for row in drawn]
    quantiles = np.array([np.quantile(sample, 0.9) for sample in chosen])
    # Where the largest of all in magnitude are negative there is no logarithm, and nothing to compare.
    with np.errstate(invalid="ignore", divide="ignore"):
        return Reading(float(np.log(np.quantile(largest, 0.9))), np.log(quantiles))


def rise(own: Results, other: Results) -> Reading:
    """C3, how flat: mean rise at half the surface's reach."""
    found = rises(own["surface"], shares=(0.5,))[0]
    return roughly(found.mean, found.stderr)


def rough(own: Results, other: Results) -> Reading:
    """C3, how rough."""
    return exactly(float(np.log(max(roughness(own["surface"])[0], np.finfo(float).tiny))))


def model_uncertainty(own: Results, other: Results) -> Reading:
    """C4, averaged over stages as logarithms, so that every stage counts alike."""
    of_image = own["feature_maps"]["model_std_of_image"].values
    return _mean_of_logs([of_image[place] for place in stage_ends(own["feature_maps"])])


def _mean_of_logs(stages: list[np.ndarray]) -> Reading:
    readings = [mean(stage, logarithm=True) for stage in stages]
    return Reading(
        float(np.mean([reading.value for reading in readings])),
        np.mean([reading.replicates for reading in readings], axis=0),
    )


def high_frequencies(masks: str) -> Callable[[Results, Results], Reading]:
    """C5 and C6: relative log amplitude at the highest frequency, averaged over the ends of stages.

    Parameters
    ----------
    masks
        ``off``, or ``on`` in networks that have any.
    """

    def read(own: Results, other: Results) -> Reading:
        mine, theirs = (_ends_at_pi(each["fourier"], masks) for each in (own, other))
        # A map of one pixel has no frequency but zero: only stages that have some in both networks.
        both = [
            place for place in range(min(len(mine), len(theirs))) if np.isfinite([mine[place], theirs[place]]).all()
        ]
        return mean(mine[both].mean(0))

    return read


def _ends_at_pi(spectra: xarray.Dataset, masks: str) -> np.ndarray:
    """(stages, images)."""
    mode = masks if masks in spectra["dropout"].values else "off"
    of_image = spectra["delta_at_pi_of_image"].sel(dropout=mode, path="half_diagonal").values
    return np.asarray(of_image[stage_ends(spectra)])


def band_noise(own: Results, other: Results) -> Reading:
    """C7: loss of accuracy under noise of matched energy in the upper half of frequencies, percentage points."""
    noise = own["frequency_noise"].sel(energy="matched")
    high = noise["frequency"].values >= HIGH
    correct = noise["correct_of_image"].values[high].mean(0)
    return mean(100 * (noise["clean_correct_of_image"].values - correct))


def ensemble_metric(name: str, scale: float) -> Callable[[Results, Results], Reading]:
    """C8: a metric of the averaged prediction, averaged over ensemble sizes."""

    def read(own: Results, other: Results) -> Reading:
        made = own["curves"]
        return Reading(scale * float(made[name].mean()), scale * made[f"{name}_replicate"].mean("size").values)

    return read


def training_nll(own: Results, other: Results) -> Reading:
    """C11: mean over images and passes."""
    passes = own["training"]
    log_probability = passes["log_probability"].values
    labels = passes["label"].values
    return mean(-log_probability[:, np.arange(len(labels)), labels].mean(0))


def passes_needed(own: Results, other: Results) -> Reading:
    """C9: passes needed for the NLL that the worse of the two networks reaches with all its passes, log2.

    The better network needs fewer than all, the worse one all, so that the difference is a network's gain, and zero on
    average between equals.
    """
    mine, theirs = own["curves"], other["curves"]
    sizes = mine["size"].values
    target = np.maximum(mine["nll"].values[-1], theirs["nll"].values[-1])
    targets = np.maximum(mine["nll_replicate"].values[-1], theirs["nll_replicate"].values[-1])
    needed = crossing(sizes, mine["nll"].values[:, None], np.array([target]))
    drawn = crossing(sizes, mine["nll_replicate"].values, targets)
    return Reading(float(np.log2(needed[0])), np.log2(drawn))


def corrupted_error(own: Results, other: Results) -> Reading:
    """C10: error, mean over corruptions and severities, percent."""
    correct = own["corruptions"]["correct_of_image"].values
    return mean(100 * (1 - correct.reshape(-1, correct.shape[-1]).mean(0)))


def corrupted_nll(own: Results, other: Results) -> Reading:
    """C10: NLL, mean over corruptions and severities, nats."""
    nll = own["corruptions"]["nll_of_image"].values
    return mean(nll.reshape(-1, nll.shape[-1]).mean(0))


def corrupted_ece(own: Results, other: Results) -> Reading:
    """C10: ECE, mean over corruptions and severities, percent."""
    return exactly(100 * float(own["corruptions"]["ece"].mean()))


PANEL: tuple[Claim, ...] = (
    Claim("C1", "lower top Hessian eigenvalue", "log of the largest eigenvalue", LOWER, ("hessian",), top_eigenvalue),
    Claim(
        "C2",
        "fewer outliers among mini-batch eigenvalues",
        "log of the 90 % quantile of mini-batches' largest eigenvalues",
        LOWER,
        ("mini_batches",),
        outliers,
    ),
    Claim("C3", "flatter loss surface", "log of the mean rise at half the reach", LOWER, ("surface",), rise),
    Claim("C3", "smoother loss surface under dropout", "log of the roughness", LOWER, ("surface",), rough, True),
    Claim(
        "C4",
        "lower model uncertainty of feature maps",
        "log of the standard deviation over masks, stage ends",
        LOWER,
        ("feature_maps",),
        model_uncertainty,
        True,
    ),
    Claim(
        "C6",
        "less high-frequency signal after stages",
        "Delta log A(pi), stage ends, masks off",
        LOWER,
        ("fourier",),
        high_frequencies("off"),
    ),
    Claim(
        "C7",
        "more robust to high-frequency noise",
        "loss of accuracy, points, frequencies above pi/2",
        LOWER,
        ("frequency_noise",),
        band_noise,
    ),
    Claim(
        "C8", "lower NLL", "NLL, nats, mean over ensemble sizes", LOWER, ("predictions",), ensemble_metric("nll", 1.0)
    ),
    Claim(
        "C8",
        "higher accuracy",
        "accuracy, %, mean over ensemble sizes",
        HIGHER,
        ("predictions",),
        ensemble_metric("accuracy", 100.0),
    ),
    Claim(
        "C8", "lower ECE", "ECE, %, mean over ensemble sizes", LOWER, ("predictions",), ensemble_metric("ece", 100.0)
    ),
    Claim(
        "C9",
        "needs fewer dropout passes",
        "log2 of passes to the worse one's final NLL",
        LOWER,
        ("predictions",),
        passes_needed,
        True,
    ),
    Claim("C10", "lower error under corruptions", "error, %", LOWER, ("corruptions",), corrupted_error),
    Claim("C10", "lower NLL under corruptions", "NLL, nats", LOWER, ("corruptions",), corrupted_nll),
    Claim("C10", "lower ECE under corruptions", "ECE, %", LOWER, ("corruptions",), corrupted_ece),
)
# Of other comparisons than that of a smoothing layer.
OTHERS: tuple[Claim, ...] = (
    Claim(
        "C5",
        "dropout raises high-frequency amplitude",
        "Delta log A(pi), stage ends, masks on where there are any",
        HIGHER,
        ("fourier",),
        high_frequencies("on"),
    ),
    Claim("C11", "sharper than GAP", "log of the largest eigenvalue", HIGHER, ("hessian",), top_eigenvalue),
    Claim("C11", "steeper loss surface", "log of the mean rise at half the reach", HIGHER, ("surface",), rise),
    Claim("C11", "rougher loss surface", "log of the roughness", HIGHER, ("surface",), rough),
    Claim("C11", "higher training NLL", "NLL on augmented training images, nats", HIGHER, ("training",), training_nll),
)
NOT_APPLICABLE = "C5 (dropout adds high frequencies) compares dropout with none, not a variant with a baseline."
