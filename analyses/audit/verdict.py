"""The rule by which an audit decides, stated before anything is measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.05
VERDICTS = ("supported", "against", "undecided")
RULE = (
    "Rule, fixed beforehand: the effect of a claim is variant minus baseline, paired by seed and by image. Its "
    "standard error joins the spread over seeds and the bootstrap over images (the same images for every network); "
    "Student's t with seeds - 1 degrees of freedom; one seed has images alone and speaks of its two "
    "networks. Two-sided tests at 5 %, corrected by Holm over all claims: "
    "significant in the claimed direction is 'supported', in the other 'against', anything else 'undecided'. "
    "Intervals are 95 %, each for its claim alone."
)


@dataclass(frozen=True)
class Reading:
    """One number about one network.

    Attributes
    ----------
    value
        The number.
    replicates
        The same number on bootstrap samples of the images, (R,), the same samples for every network; empty where it is
        no statistic of images.
    """

    value: float
    replicates: np.ndarray


@dataclass(frozen=True)
class Effect:
    """Variant minus baseline.

    Attributes
    ----------
    of_seed
        The difference within each seed, (S,).
    estimate, stderr
        Mean over seeds, and its standard error; not a number when it cannot be known.
    degrees
        Degrees of freedom of the interval; infinite for one seed, whose interval is over images alone.
    low, high
        95 % interval.
    p
        Two-sided.
    """

    of_seed: np.ndarray
    estimate: float
    stderr: float
    degrees: float
    low: float
    high: float
    p: float

    @property
    def detectable(self) -> float:
        """Half the width of the interval: what an effect must exceed to stand out of it."""
        return (self.high - self.low) / 2


def effect(baseline: Sequence[Reading], variant: Sequence[Reading]) -> Effect:
    r"""Paired effect over seeds and images.

    .. math:: \mathrm{se}^2 = s^2 / S + \mathrm{Var}_\text{bootstrap}(\bar d)

    with *s* the standard deviation over seeds of the differences and :math:`\bar d` their mean, taken on the same
    bootstrap sample of images in all networks. The images' share of *s* is counted twice, on the safe side. Degrees of
    freedom are S - 1, also where the images dominate: again on the safe side.

    Parameters
    ----------
    baseline, variant
        One reading a seed, in the same order. Seeds in which either is not finite are left out.
    """
    pairs = [
        (one, other)
        for one, other in zip(baseline, variant, strict=True)
        if math.isfinite(one.value) and math.isfinite(other.value)
    ]
    of_seed = np.array([other.value - one.value for one, other in pairs])
    count = len(of_seed)
    estimate = float(of_seed.mean()) if count else math.nan
    drawn = [other.replicates - one.replicates for one, other in pairs if len(one.replicates)]
    over_images = float(np.var(np.mean(drawn, axis=0), ddof=1)) if drawn else 0.0
    if count > 1:
        stderr, degrees = math.sqrt(float(of_seed.var(ddof=1)) / count + over_images), float(count - 1)
    else:
        stderr, degrees = (math.sqrt(over_images) if drawn else math.nan), math.inf
    if not stderr > 0:
        # Equal in every seed and image: the same networks, so that there is nothing to decide; or nothing known.
        same = count > 0 and stderr == 0 and estimate == 0
        bound = 0.0 if same else math.nan
        return Effect(of_seed, estimate, stderr, degrees, bound, bound, 1.0 if same else math.nan)
    half = float(stats.t.ppf(1 - LEVEL / 2, degrees)) * stderr
    p = 2 * float(stats.t.sf(abs(estimate) / stderr, degrees))
    return Effect(of_seed, estimate, stderr, degrees, estimate - half, estimate + half, p)


def holm(probabilities: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p values: familywise error over those that are numbers; others stay not a number."""
    known = [place for place, p in enumerate(probabilities) if math.isfinite(p)]
    adjusted = [math.nan] * len(probabilities)
    largest = 0.0
    for rank, place in enumerate(sorted(known, key=lambda place: probabilities[place])):
        largest = max(largest, min(1.0, (len(known) - rank) * probabilities[place]))
        adjusted[place] = largest
    return adjusted


def decide(estimate: float, adjusted: float, direction: int) -> str:
    """``supported``, ``against`` or ``undecided``; `direction` is -1 where the claim says lower, 1 where higher."""
    if not adjusted < LEVEL:
        return "undecided"
    return "supported" if estimate * direction > 0 else "against"
