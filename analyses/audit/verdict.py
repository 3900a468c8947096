"""The rule by which an audit decides, stated before anything is measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special, stats

LEVEL = 0.05
# Sequential use: seeds at which the pairs measured so far may be looked at, and the level of each look. Five looks at
# 1 % keep 5 % over all of them, however they depend on each other (Bonferroni).
LOOKS = (4, 6, 8, 10, 12)
LOOK_LEVEL = LEVEL / len(LOOKS)
# Pairs of networks below which there is no verdict: with three, Student's t has 2 degrees of freedom, and Holm's
# correction over fourteen measures asks for effects of 16 standard errors.
FEWEST = 4
NO_VERDICT = "no verdict"
VERDICTS = ("supported", "against", "undecided", NO_VERDICT)
RULE = (
    "Rule, fixed beforehand: the effect of a claim is variant minus baseline, paired by seed and by image. Seeds and "
    "images are crossed random effects: se^2 = s^2 / S + v_c, with s the standard deviation over the S seeds and v_c "
    "the part of the bootstrap variance over images that all seeds share (the same images in every network); s^2 is "
    "never below what 95 % of samples would show if the images alone made it. Student's t with Satterthwaite's degrees "
    "of freedom, two-sided at 5 % (or at 1 % each, where the seeds are looked at after 4, 6, 8, 10 and 12 pairs), "
    "corrected by Holm over all claims: significant in the claimed direction is 'supported', in the other 'against', "
    "anything else 'undecided'. Fewer than four pairs give no verdict; one pair has images alone and speaks of its two "
    "networks. A claim about every ensemble size is decided only where all sizes are. Intervals are 95 %, each for its "
    "claim alone (92 to 95 % where pairs were added until it was decided)."
)
# Quantile of the spread over seeds that images alone would give, below which the measured one is not believed.
_FLOOR = 0.05
# Bootstrap samples of the images, and how many images are taken where power is predicted.
REPLICATES = 400
_IMAGES = 200
# Differences that agree to this share of the values they are taken from agree to rounding: float32 sums of images.
_ROUNDING = 1e-7


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
    units
        How many images are resampled, or groups of them, or mini-batches, *G*.
    """

    value: float
    replicates: np.ndarray
    units: int


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
        Degrees of freedom of the interval.
    low, high
        95 % interval.
    p
        Two-sided.
    spread
        Standard deviation of the effect over seeds, *s*, with its lower bound.
    shared
        Standard error that the choice of images gives to all seeds alike, the root of *v_c*: more seeds do not lower
        it.
    at
        Which of several effects it is, where a claim is about all of them; empty otherwise.
    """

    of_seed: np.ndarray
    estimate: float
    stderr: float
    degrees: float
    low: float
    high: float
    p: float
    spread: float = math.nan
    shared: float = 0.0
    at: str = ""


def effect(baseline: Sequence[Reading], variant: Sequence[Reading]) -> Effect:
    r"""Paired effect over seeds and images, crossed random effects.

    With :math:`d_s` the difference within seed *s* of *S* and :math:`V` variances over *R* bootstrap samples of the *G*
    images, the same sample in all networks, times G / (G - 1),

    .. math::

       v_c &= \frac{S\,V(\bar d) - \overline{V(d_s)}}{S - 1}, \qquad
       v_o = \frac{S\,(\overline{V(d_s)} - V(\bar d))}{S - 1} \\
       \mathrm{se}^2 &= s^2 / S + v_c \\
       \frac1\nu &= \frac{1}{S - 1} \min\left(1, \frac{S + 1}{S - 1} \left(\frac{s^2 / S}{\mathrm{se}^2}\right)^2\right)
           + \left(\frac1R + \frac1{G - 1}\right) \left(\frac{v_c}{\mathrm{se}^2}\right)^2

    :math:`v_c` is what the choice of images does to all seeds alike, :math:`v_o` what it does to each by itself, which
    the variance :math:`s^2` over seeds holds already: both are unbiased, and neither is counted below zero.
    :math:`s^2` is not taken below the 5 % quantile of what :math:`v_o` alone would give,
    :math:`v_o\,\chi^2_{S-1}(0.05) / (S - 1)`: differences that agree by chance or by rounding decide nothing. (With
    :math:`v_o` itself as the bound the test would be right on 0.1 to 3 % instead of 5 % where images dominate.)
    The degrees of freedom are Satterthwaite's: those of :math:`v_c` are what a variance over *G* images has, and over
    *R* samples of them (taken for 133, eight mini-batches would err in 10 % instead of 5), and :math:`s^2` stands in
    them as measured, with (S - 1)/(S + 1), without which 4 seeds err in up to 6 %. How often the test errs is simulated
    in ``benchmarks/type_one_error.py``.

    Parameters
    ----------
    baseline, variant
        One reading a seed, in the same order. Seeds in which either is not finite are left out.

    Notes
    -----
    Gallas, Academic Radiology 13 (2006) 353; Obuchowski and Rockette, Communications in Statistics 24 (1995) 285, with
    seeds as readers and images as cases.
    """
    pairs = [
        (one, other)
        for one, other in zip(baseline, variant, strict=True)
        if math.isfinite(one.value) and math.isfinite(other.value)
    ]
    count = len(pairs)
    of_seed = np.array([other.value - one.value for one, other in pairs])
    estimate = float(of_seed.mean()) if count else math.nan
    single, mean, image_degrees = _image_variances(pairs)
    rounding = (_ROUNDING * max((abs(each.value) for pair in pairs for each in pair), default=0.0)) ** 2
    if count > 1:
        shared = max((count * mean - single) / (count - 1), 0.0)
        own = max(count * (single - mean) / (count - 1), 0.0)
        floor = own * float(special.chdtri(count - 1, 1 - _FLOOR)) / (count - 1)
        variance = max(float(of_seed.var(ddof=1)), floor)
        squared = variance / count + shared
        known = squared > rounding
        degrees = _degrees(count, variance / count, shared, image_degrees)
    else:
        shared, variance, squared, known, degrees = single, math.nan, single, single > rounding, image_degrees
    if not known:
        # Equal in every seed and image: the same networks, so that there is nothing to decide; or nothing is known of
        # how the effect varies.
        same = count > 0 and estimate**2 <= rounding
        bound = estimate if same else math.nan
        return Effect(
            of_seed, estimate, 0.0 if same else math.nan, degrees, bound, bound, 1.0 if same else math.nan, 0.0
        )
    stderr = math.sqrt(squared)
    p = 2 * float(special.stdtr(degrees, -abs(estimate) / stderr))
    half = float(special.stdtrit(degrees, 1 - LEVEL / 2)) * stderr
    return Effect(
        of_seed, estimate, stderr, degrees, estimate - half, estimate + half, p, math.sqrt(variance), math.sqrt(shared)
    )


def _degrees(seeds: int, of_seeds: float, shared: float, image_degrees: float) -> float:
    """Satterthwaite's degrees of freedom of the sum of two squared standard errors; see `effect`."""
    total = of_seeds + shared
    if not total > 0:
        return float(seeds - 1)
    inverse = min(1.0, (seeds + 1) / (seeds - 1) * (of_seeds / total) ** 2) / (seeds - 1)
    return 1 / (inverse + (shared / total) ** 2 / image_degrees)


def _degrees_of_images(units: int, replicates: int) -> float:
    return 1 / (1 / replicates + 1 / (units - 1))


def _image_variances(pairs: Sequence[tuple[Reading, Reading]]) -> tuple[float, float, float]:
    """Variance over images of a seed's difference, mean over seeds, and of the mean difference; degrees of freedom."""
    nothing = 0.0, 0.0, 1.0
    if not pairs or any(len(each.replicates) == 0 or each.units < 2 for pair in pairs for each in pair):
        return nothing
    drawn = np.array([other.replicates - one.replicates for one, other in pairs])
    drawn = drawn[:, np.isfinite(drawn).all(0)]
    if drawn.shape[1] < 2:
        return nothing
    units = min(each.units for pair in pairs for each in pair)
    # A bootstrap sample varies about the sample's own mean, by (G - 1) / G of what a fresh sample would.
    drawn = drawn * math.sqrt(units / (units - 1))
    degrees = _degrees_of_images(units, drawn.shape[1])
    return float(drawn.var(axis=1, ddof=1).mean()), float(drawn.mean(0).var(ddof=1)), degrees


def weakest(effects: Sequence[Effect], names: Sequence[str]) -> Effect:
    """The effect that decides where a claim is about all of several: the one with the largest p.

    The union of their null hypotheses is rejected at a level where each of them is (intersection-union test, Berger
    1982), which needs no correction. Effects of different signs agree in nothing: p is 1.
    """
    known = [np.inf if math.isnan(each.p) else each.p for each in effects]
    index = int(np.argmax(known))
    signs = {np.sign(each.estimate) for each in effects}
    disagree = len(signs) > 1
    chosen = replace(effects[index], at=names[index])
    return replace(chosen, p=1.0) if disagree and math.isfinite(chosen.p) else chosen


def holm(probabilities: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p values: familywise error over those that are numbers; others stay not a number."""
    known = [index for index, p in enumerate(probabilities) if math.isfinite(p)]
    adjusted = [math.nan] * len(probabilities)
    largest = 0.0
    for rank, index in enumerate(sorted(known, key=lambda index: probabilities[index])):
        largest = max(largest, min(1.0, (len(known) - rank) * probabilities[index]))
        adjusted[index] = largest
    return adjusted


def decide(estimate: float, adjusted: float, direction: int, level: float = LEVEL) -> str:
    """``supported``, ``against`` or ``undecided``; `direction` is -1 where the claim says lower, 1 where higher."""
    if not adjusted < level:
        return "undecided"
    return "supported" if estimate * direction > 0 else "against"


def power(size: float, seeds: int, *, spread: float = 1.0, shared: float = 0.0, level: float = LEVEL) -> float:
    r"""Probability that an effect of a given size is found, in its own direction, with so many seeds.

    The test of `effect` at :math:`\mathrm{se}^2 = \text{spread}^2 / S + \text{shared}^2`, by the noncentral t
    distribution.

    Parameters
    ----------
    size
        Of the effect.
    seeds
        Pairs of networks, *S*.
    spread
        Standard deviation of the effect over seeds.
    shared
        Standard error that the choice of images gives to all seeds alike.
    level
        Two-sided, after any correction: that of Holm's first step over *m* claims is level / m.
    """
    variance = spread**2 / seeds
    squared = variance + shared**2
    degrees = _degrees(seeds, variance, shared**2, _degrees_of_images(_IMAGES, REPLICATES))
    critical = float(special.stdtrit(degrees, 1 - level / 2))
    return float(stats.nct.sf(critical, degrees, abs(size) / math.sqrt(squared)))


def seeds_needed(
    size: float,
    *,
    spread: float = 1.0,
    shared: float = 0.0,
    level: float = LEVEL,
    wanted: float = 0.8,
    choices: Sequence[int] = range(FEWEST, 201),
) -> int | None:
    """The fewest seeds of `choices` that find an effect with the wanted probability; None where none do.

    See `power`. With `choices` of `LOOKS` and `level` of `LOOK_LEVEL`, the look by which it is found: earlier looks
    only add to the probability.
    """
    for seeds in choices:
        if power(size, seeds, spread=spread, shared=shared, level=level) >= wanted:
            return seeds
    return None
