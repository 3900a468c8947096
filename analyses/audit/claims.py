"""The claims of the paper about a smoothing layer, as data: what is measured, and which way it should move."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import xarray

from analyses.audit.verdict import REPLICATES, Reading
from landscape import metrics
from landscape.errors import LandscapeError
from landscape.look.comparison import behind, compared_blocks
from landscape.metrics.definitions import BINS, bin_of
from landscape.predictions.efficiency import crossing
from landscape.robustness.choices import SEVERITIES
from landscape.robustness.corrupted import RELATIVE, relative_errors
from landscape.robustness.corruptions import STANDARD
from landscape.surface.summary import rise_of_images, rises, roughness, roughness_influence

Results = Mapping[str, xarray.Dataset]
# One reading, or one for each of several readings of which a claim says the same.
Readings = Reading | Mapping[str, Reading]

LOWER, HIGHER = -1, 1
# Frequencies from here on are high: the upper half of the axis, units of pi.
HIGH = 0.5
# Share of the mini-batches whose eigenvalues count as outliers in size, and the multiple of the median beyond which one
# counts as an outlier in number.
TAIL = 0.1
OUTLIER = 2.0
# What a claim is about: what the network learnt, or what holds behind a smoothing layer by the layer's own arithmetic.
NETWORK, ARITHMETIC = "network", "arithmetic"


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes
    ----------
    name
        C1 to C11, as CLAIMS.md numbers them.
    statement
        What is claimed of the variant against the baseline.
    measure
        What is measured; effects of logarithms are differences of natural logarithms, so that -0.1 is about 10 % less.
    direction
        `LOWER` or `HIGHER`.
    needs
        Instruments.
    read
        (results of a network, results of the network it is compared with) -> reading, or readings by name where the
        claim is about all of them.
    stochastic
        Whether it is about Monte-Carlo dropout.
    family
        `NETWORK`, or `ARITHMETIC`: corrected by Holm apart, and no evidence for the claim.
    """

    name: str
    statement: str
    measure: str
    direction: int
    needs: tuple[str, ...]
    read: Callable[[Results, Results], Readings]
    stochastic: bool = False
    family: str = NETWORK


@cache
def _weights(count: int) -> np.ndarray:
    """(R, N) shares of each of N images in the bootstrap samples, the same for every network."""
    return np.asarray(metrics.bootstrap_weights(count, replicates=REPLICATES)) / count


def mean(values: np.ndarray, *, logarithm: bool = False) -> Reading:
    """Mean of one number an image, (N,), or its logarithm."""
    drawn = _weights(len(values)) @ values
    value = float(values.mean())
    if not logarithm:
        return Reading(value, drawn, len(values))
    with np.errstate(divide="ignore", invalid="ignore"):
        return Reading(float(np.log(value)), np.log(drawn), len(values))


def exactly(value: float) -> Reading:
    """A number that is not a statistic of images."""
    return Reading(value, np.empty(0), 0)


def linear(value: float, of_part: np.ndarray) -> Reading:
    """The logarithm of a number whose first-order change with the images is known part by part.

    Parameters
    ----------
    value
        The number.
    of_part
        (G,) its change, times G, when one part of the images weighs more: the number's own value in each part where
        it is a mean of these.
    """
    if not value > 0:
        return exactly(math.nan)
    shift = _weights(len(of_part)) @ (of_part - of_part.mean()) / value
    return Reading(math.log(value), math.log(value) + shift, len(of_part))


def top_eigenvalue(own: Results, other: Results) -> Reading:
    """C1; by first order in the images, the quotients of groups of them at the eigenvector found."""
    spectrum = own["hessian"]
    return linear(float(spectrum["eigenvalue"][0]), spectrum["quotient_of_group"].values)


def _over_batches(own: Results, statistic: Callable[[np.ndarray], float]) -> Reading:
    """A statistic of the mini-batches' largest eigenvalues, over bootstrap samples of mini-batches."""
    largest = own["mini_batches"]["eigenvalue"].values[:, 0]
    drawn = metrics.bootstrap_weights(len(largest), replicates=REPLICATES)
    samples = [np.repeat(largest, np.asarray(row).astype(int)) for row in drawn]
    return Reading(statistic(largest), np.array([statistic(sample) for sample in samples]), len(largest))


def outlier_size(own: Results, other: Results) -> Reading:
    """C2: how far the largest tenth of mini-batches stands above their median, a logarithm."""

    def statistic(largest: np.ndarray) -> float:
        tail = np.sort(largest)[-max(1, round(TAIL * len(largest))) :].mean()
        middle = float(np.median(largest))
        # Where the largest of all in magnitude are negative there is no logarithm, and nothing to compare.
        return math.log(tail / middle) if middle > 0 else math.nan

    return _over_batches(own, statistic)


def outlier_share(own: Results, other: Results) -> Reading:
    """C2: mini-batches whose largest eigenvalue is more than twice their median, percent."""

    def statistic(largest: np.ndarray) -> float:
        middle = float(np.median(largest))
        # Twice a negative median lies below it: half of all would count.
        return 100 * float((largest > OUTLIER * middle).mean()) if middle > 0 else math.nan

    return _over_batches(own, statistic)


def rise(own: Results, other: Results) -> Reading:
    """C3, how flat: mean rise at half the surface's reach."""
    half_way = rises(own["surface"], shares=(0.5,))[0]
    return linear(half_way.mean, rise_of_images(own["surface"], 0.5))


def rough(own: Results, other: Results) -> Reading:
    """C3, how rough."""
    value = roughness(own["surface"])[0]
    return linear(value, value * roughness_influence(own["surface"]))


# (result of a network, that of the one it is compared with) -> points of the first
Where = Callable[[xarray.Dataset, xarray.Dataset], list[int]]


def _before(result: xarray.Dataset, other: xarray.Dataset) -> list[int]:
    return compared_blocks(result, other)


def _behind(result: xarray.Dataset, other: xarray.Dataset) -> list[int]:
    return behind(result, compared_blocks(result, other))


def model_uncertainty(where: Where) -> Callable[[Results, Results], Reading]:
    """C4: relative to the map's scale, averaged over stages as logarithms, so that every stage counts alike.

    Parameters
    ----------
    where
        Points at the ends of stages: `_before` or `_behind` the smoothing layers, the same where there are none.
        A stage ends, too, where a smoothing layer of either network stands between blocks.
    """

    def read(own: Results, other: Results) -> Reading:
        maps = own["feature_maps"]
        scale = np.sqrt(maps["power_of_image"].values)
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = maps["model_std_of_image"].values / scale
        return _mean_of_logs([relative[index] for index in where(maps, other["feature_maps"])])

    return read


def _mean_of_logs(stages: list[np.ndarray]) -> Reading:
    readings = [mean(stage, logarithm=True) for stage in stages]
    return Reading(
        float(np.mean([reading.value for reading in readings])),
        np.mean([reading.replicates for reading in readings], axis=0),
        readings[0].units,
    )


def high_frequencies(masks: str, where: Where = _behind) -> Callable[[Results, Results], Reading]:
    """C5 and C6: relative log amplitude at the same high frequency in both networks, averaged over ends of stages.

    That frequency is, stage by stage, the highest below pi of the smallest of the maps compared, those before and
    behind the smoothing layers in both networks; between the frequencies of a map it is interpolated.

    Parameters
    ----------
    masks
        ``off``, or ``on`` in networks that have any.
    where
        As in `model_uncertainty`.
    """

    def read(own: Results, other: Results) -> Reading:
        mine, theirs = own["fourier"], other["fourier"]
        curves = []
        for stage, index in enumerate(where(mine, theirs)):
            frequency = equal_frequency(stage, mine, theirs)
            if frequency is not None:
                curves.append(_at(mine, index, frequency, masks))
        return mean(np.mean(curves, axis=0)) if curves else exactly(math.nan)

    return read


def equal_frequency(stage: int, mine: xarray.Dataset, theirs: xarray.Dataset) -> float | None:
    """The highest frequency below pi that all maps at the end of a stage have; None where one has a single pixel."""
    highest = []
    for result, other in ((mine, theirs), (theirs, mine)):
        for indices in (_before(result, other), _behind(result, other)):
            if stage >= len(indices):
                return None
            index = indices[stage]
            highest.append(float(result["frequency"].values[index][int(result["end"].values[index])]))
    return min(highest) if np.isfinite(highest).all() else None


def _at(spectra: xarray.Dataset, index: int, frequency: float, masks: str) -> np.ndarray:
    """(images,), linear between the frequencies of the map."""
    modes = [str(mode) for mode in spectra["dropout"].values]
    curve = spectra["delta_of_image"].values[modes.index(masks if masks in modes else "off"), index].astype(float)
    known = spectra["frequency"].values[index]
    upper = int(np.searchsorted(known[np.isfinite(known)], frequency - 1e-9))
    lower = max(upper - 1, 0)
    fraction = (frequency - known[lower]) / (known[upper] - known[lower]) if upper > lower else 0.0
    return np.asarray(curve[lower] + fraction * (curve[upper] - curve[lower]))


def own_part(
    read: Callable[[Where], Callable[[Results, Results], Reading]],
) -> Callable[[Results, Results], Reading]:
    """What the smoothing layers themselves do: a reading behind them minus the same before them."""

    def difference(own: Results, other: Results) -> Reading:
        behind, before = (read(where)(own, other) for where in (_behind, _before))
        # Where masks move nothing, as before the first dropout of a stranger's network, logarithms are infinite.
        with np.errstate(invalid="ignore"):
            return Reading(behind.value - before.value, behind.replicates - before.replicates, behind.units)

    return difference


def band_noise(own: Results, other: Results) -> Reading:
    """C7: loss of accuracy under noise of matched energy in the upper half of frequencies, percentage points."""
    noise = own["frequency_noise"].sel(energy="matched")
    high = noise["frequency"].values >= HIGH
    correct = noise["correct_of_image"].values[high].mean(0)
    return mean(100 * (noise["clean_correct_of_image"].values - correct))


def ensemble_metric(name: str, scale: float) -> Callable[[Results, Results], Readings]:
    """C8: a metric of the averaged prediction, for every ensemble size."""

    def read(own: Results, other: Results) -> Readings:
        curve_set = own["curves"]
        values, drawn = curve_set[name].values, curve_set[f"{name}_replicate"].transpose("size", "replicate").values
        return {
            f"N = {size}": Reading(scale * float(values[index]), scale * drawn[index], int(curve_set.attrs["images"]))
            for index, size in enumerate(curve_set["size"].values)
        }

    return read


def training_nll(own: Results, other: Results) -> Reading:
    """C11: mean over images and passes."""
    passes = own["training"]
    log_probability = passes["log_probability"].values
    labels = passes["label"].values
    return mean(-log_probability[:, np.arange(len(labels)), labels].mean(0))


def passes_needed(own: Results, other: Results) -> Reading:
    """C9: 1 / passes needed for the NLL that the worse of the two networks reaches with all its passes.

    The better network needs fewer than all, the worse one all, so that the difference is a network's gain, and zero on
    average between equals. Of a curve a + b / N it is the lead of the better network in NLL, in units of b. The number
    of passes itself, or its logarithm, would not do: it leaps from *few* to *all* as the lead changes sign, so that any
    four pairs of equals that agree in the sign by chance (one time in eight) look alike, and Student's t calls them
    significant. A network whose single pass is better than the target needs less than one, by the same law through its
    own curve: whole passes would make all such networks equal.
    """
    mine, theirs = own["curves"], other["curves"]
    sizes = mine["size"].values
    target = np.maximum(mine["nll"].values[-1], theirs["nll"].values[-1])
    targets = np.maximum(mine["nll_replicate"].values[-1], theirs["nll_replicate"].values[-1])
    needed = crossing(sizes, mine["nll"].values[:, None], np.array([target]), extrapolate=True)
    drawn = crossing(sizes, mine["nll_replicate"].values, targets, extrapolate=True)
    return Reading(float(1 / needed[0]), 1 / drawn, int(mine.attrs["images"]))


def corrupted_error(own: Results, other: Results) -> Reading:
    """C10: error, mean over corruptions and severities, percent."""
    correct = own["corruptions"]["correct_of_image"].values
    return mean(100 * (1 - correct.reshape(-1, correct.shape[-1]).mean(0)))


def corrupted_nll(own: Results, other: Results) -> Reading:
    """C10: NLL, mean over corruptions and severities, nats."""
    nll = own["corruptions"]["nll_of_image"].values
    return mean(nll.reshape(-1, nll.shape[-1]).mean(0))


def corrupted_ece(own: Results, other: Results) -> Reading:
    """C10: ECE, mean over corruptions and severities, percent; the same images resampled in all of them."""
    measured = own["corruptions"]
    confidence, correct = (measured[f"{name}_of_image"].values for name in ("confidence", "correct"))
    images = correct.shape[-1]
    drawn = []
    for sure, right in zip(confidence.reshape(-1, images), correct.reshape(-1, images), strict=True):
        gaps = np.zeros((images, BINS))
        gaps[np.arange(images), bin_of(torch.from_numpy(sure).float(), BINS).numpy()] = sure - right
        drawn.append(np.abs(_weights(images) @ gaps).sum(1))
    return Reading(100 * float(measured["ece"].mean()), 100 * np.mean(drawn, axis=0), images)


def relative_claims(baseline: xarray.Dataset) -> tuple[Claim, ...]:
    """C10 as the paper has it, on the published corrupted files: mCE, mCNLL and mCECE, percent of a baseline network.

    Parameters
    ----------
    baseline
        Of the network that is 100 %, see `landscape.robustness.corrupted.read_baseline`.

    Raises
    ------
    LandscapeError
        When it lacks one of the 15 standard corruptions or five severities.
    """
    lacks = set(STANDARD) - {str(name) for name in baseline["corruption"].values}
    if lacks or not set(SEVERITIES) <= set(baseline["severity"].values.tolist()):
        raise LandscapeError(
            f"mCE needs 15 corruptions at 5 severities; the baseline lacks {', '.join(lacks) or 'some'}"
        )

    def of(name: str) -> Callable[[Results, Results], Reading]:
        def read(own: Results, other: Results) -> Reading:
            measured = own["corruptions"]
            missing = set(STANDARD) - {str(each) for each in measured["corruption"].values}
            if missing or measured.sizes["severity"] < len(SEVERITIES):
                return exactly(math.nan)
            errors = relative_errors(measured, baseline, replicates=REPLICATES).sel(measure=name)
            return Reading(100 * float(errors["value"]), 100 * errors["replicate"].values, measured.sizes["image"])

        return read

    return tuple(
        Claim("C10", f"lower {name}", f"{name}, % of the baseline's", LOWER, ("corruptions",), of(name))
        for name in RELATIVE
    )


_CORRUPTIONS = "mean over corruptions"
_UNCERTAINTY = "log of std over masks / root mean square of the map"
_AMPLITUDE = "Delta log A at equal high frequency, masks off"


def _frequencies_off(where: Where) -> Callable[[Results, Results], Reading]:
    return high_frequencies("off", where)


CLAIMS: tuple[Claim, ...] = (
    Claim("C1", "lower top Hessian eigenvalue", "log of the largest eigenvalue", LOWER, ("hessian",), top_eigenvalue),
    Claim(
        "C2",
        "smaller outliers among mini-batch eigenvalues",
        "log of (mean of the largest tenth / median) of mini-batches' largest eigenvalues",
        LOWER,
        ("mini_batches",),
        outlier_size,
    ),
    Claim(
        "C2",
        "fewer outliers among mini-batch eigenvalues",
        "% of mini-batches' largest eigenvalues above twice their median",
        LOWER,
        ("mini_batches",),
        outlier_share,
    ),
    Claim("C3", "flatter loss surface", "log of the mean rise at half the reach", LOWER, ("surface",), rise),
    Claim("C3", "smoother loss surface under dropout", "log of the roughness", LOWER, ("surface",), rough, True),
    Claim(
        "C4",
        "lower model uncertainty before the smoothing layers",
        f"{_UNCERTAINTY}, mean over the last blocks of stages",
        LOWER,
        ("feature_maps",),
        model_uncertainty(_before),
        True,
    ),
    Claim(
        "C6",
        "less high-frequency signal before the smoothing layers",
        f"{_AMPLITUDE}, mean over the last blocks of stages",
        LOWER,
        ("fourier",),
        high_frequencies("off", _before),
    ),
    Claim(
        "C7",
        "more robust to high-frequency noise",
        "loss of accuracy, points, frequencies above pi/2",
        LOWER,
        ("frequency_noise",),
        band_noise,
    ),
    Claim("C8", "lower NLL", "NLL, nats, every ensemble size", LOWER, ("predictions",), ensemble_metric("nll", 1.0)),
    Claim(
        "C8",
        "higher accuracy",
        "accuracy, %, every ensemble size",
        HIGHER,
        ("predictions",),
        ensemble_metric("accuracy", 100.0),
    ),
    Claim("C8", "lower ECE", "ECE, %, every ensemble size", LOWER, ("predictions",), ensemble_metric("ece", 100.0)),
    Claim(
        "C9",
        "needs fewer dropout passes",
        "1 / passes to the worse one's final NLL",
        HIGHER,
        ("predictions",),
        passes_needed,
        True,
    ),
    Claim(
        "C10",
        "lower error under computed corruptions",
        f"error, %, {_CORRUPTIONS}",
        LOWER,
        ("corruptions",),
        corrupted_error,
    ),
    Claim(
        "C10",
        "lower NLL under computed corruptions",
        f"NLL, nats, {_CORRUPTIONS}",
        LOWER,
        ("corruptions",),
        corrupted_nll,
    ),
    Claim(
        "C10",
        "lower ECE under computed corruptions",
        f"ECE, %, {_CORRUPTIONS}",
        LOWER,
        ("corruptions",),
        corrupted_ece,
    ),
    Claim(
        "C4",
        "arithmetic: lower model uncertainty behind the smoothing layers",
        f"{_UNCERTAINTY}, mean over stage ends",
        LOWER,
        ("feature_maps",),
        model_uncertainty(_behind),
        True,
        ARITHMETIC,
    ),
    Claim(
        "C4",
        "arithmetic: what the smoothing layers do to it themselves",
        "behind minus before",
        LOWER,
        ("feature_maps",),
        own_part(model_uncertainty),
        True,
        ARITHMETIC,
    ),
    Claim(
        "C6",
        "arithmetic: less high-frequency signal behind the smoothing layers",
        f"{_AMPLITUDE}, mean over stage ends",
        LOWER,
        ("fourier",),
        high_frequencies("off", _behind),
        family=ARITHMETIC,
    ),
    Claim(
        "C6",
        "arithmetic: what the smoothing layers do to it themselves",
        "behind minus before",
        LOWER,
        ("fourier",),
        own_part(_frequencies_off),
        family=ARITHMETIC,
    ),
)
# Of other comparisons than that of a smoothing layer.
OTHERS: tuple[Claim, ...] = (
    Claim(
        "C5",
        "dropout raises high-frequency amplitude",
        "Delta log A at equal high frequency, mean over stage ends, masks on where there are any",
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
