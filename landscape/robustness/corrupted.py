"""Metrics on corrupted images, and mean corruption errors relative to a baseline."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol as Interface

import numpy as np
import torch
import xarray
from torch import nn

from landscape import metrics
from landscape.compute.settings import measurement
from landscape.data import Images
from landscape.errors import LandscapeError
from landscape.metrics import confidence
from landscape.metrics.choices import Binning
from landscape.metrics.definitions import BINS, authors_bin_of, bin_of
from landscape.predictions import Predictor
from landscape.predictions.passes import require_same_images
from landscape.robustness import cells
from landscape.robustness.choices import SEVERITIES
from landscape.robustness.corruptions import STANDARD
from landscape.store import published, result
from landscape.store.journal import Journal
from landscape.store.pieces import Arrays, pieces
from landscape.store.protocol import Protocol

# Error rate, NLL and ECE: relative to a baseline they make mCE, mCNLL and mCECE.
RELATIVE = {"mCE": "error", "mCNLL": "nll", "mCECE": "ece"}


class Source(Interface):
    """Where corrupted images come from: `Computed` or `CifarC`."""

    names: tuple[str, ...]
    computed: bool

    def load(self, name: str, severity: int) -> Images:
        """The images under a corruption, the same ones in the same order every time."""


@measurement
def measure(
    model: nn.Module,
    source: Source,
    *,
    corruptions: Sequence[str] | None = None,
    severities: Sequence[int] = SEVERITIES,
    protocol: Protocol | None = None,
    passes: int = 50,
    binning: Binning = "right",
    batch: int | None = None,
    device: torch.device | str | None = None,
    journal: Journal | None = None,
    quiet: bool = True,
) -> xarray.Dataset:
    """All metrics of the Monte-Carlo average under every corruption and severity.

    Masks are those of the clean images: the same in every corruption, so that differences are not of masks.

    Parameters
    ----------
    model, protocol, batch, device
        See `landscape.predictions.Predictor`.
    source
        Of the images.
    corruptions, severities
        Which; all unless given.
    passes
        Monte-Carlo passes that are averaged, 50 as in the paper.
    binning
        Of confidences; see `MetricSet`.
    journal
        Keeps finished cells.
    quiet
        Show no progress bar.

    Returns
    -------
    xarray.Dataset
        Over ``(severity, corruption)``: each metric and ``<metric>_stderr``, its standard error over images. Over
        ``(severity, corruption, image)``: ``nll_of_image``, ``confidence_of_image``, ``correct_of_image``, for
        intervals of the mean corruption errors and for pairing networks.

    Raises
    ------
    LandscapeError
        For a corruption that the source lacks, no or an unknown severity, or as `Predictor`.
    """
    protocol = protocol or Protocol(dropout="fresh", split="test")
    names, severities = tuple(dict.fromkeys(corruptions or source.names)), tuple(dict.fromkeys(severities))
    missing = [name for name in names if name not in source.names]
    if missing or not names:
        raise LandscapeError(f"no corruption {', '.join(missing)} here: choose from {', '.join(source.names)}")
    if not severities or not set(severities) <= set(SEVERITIES):
        raise LandscapeError(f"severities are {', '.join(map(str, SEVERITIES))}, not {severities}")
    keys = {f"{name} {severity}": (severity, name) for severity in severities for name in names}
    first = source.load(names[0], severities[0])
    predictor = Predictor(model, first, protocol=protocol, batch=batch, device=device)
    samples = range(passes if predictor.stochastic else 1)

    def compute(key: str) -> Arrays:
        severity, name = keys[key]
        images = source.load(name, severity)
        return cells.predicted(predictor.average(images, 0, len(images), samples), images.labels)

    whole = dict(pieces(list(keys), compute, journal=journal, what="corruptions", unit="cell", quiet=quiet))
    conditions, shape = ("severity", "corruption"), (len(severities), len(names))
    dataset = cells.dataset(
        [whole[key] for key in keys], first.labels, predictor.classes, conditions, shape, binning=binning
    ).assign_coords(severity=list(severities), corruption=list(names))
    dataset.attrs |= {
        "images": len(first),
        "passes": len(samples),
        "computed": int(source.computed),
        "binning": binning,
        "images_sha256": first.sha256,
    }
    return dataset


def read_baseline(path: Path | str) -> xarray.Dataset:
    """Metrics over ``(severity, corruption)`` to compare with: a published ``.csv``, or a result of this instrument."""
    path = Path(path)
    dataset = published.read_corrupted(path) if path.suffix == ".csv" else result.load(path)
    if not {"severity", "corruption"} <= set(dataset.dims) or "accuracy" not in dataset:
        raise LandscapeError(f"{path} holds no metrics by corruption: give a published CSV or a robustness result")
    return dataset


def relative_errors(
    measured: xarray.Dataset,
    baseline: xarray.Dataset,
    *,
    replicates: int = metrics.REPLICATES,
    seed: int = 0,
) -> xarray.Dataset:
    r"""Mean corruption errors relative to a baseline network: mCE, mCNLL, mCECE.

    .. math:: \mathrm{mCE} = \frac1{|C|} \sum_{c \in C} \frac{\sum_s E_{s,c}}{\sum_s E^\mathrm{base}_{s,c}}

    with the error rate as *E* (Hendrycks & Dietterich 2019), and likewise the NLL and the ECE. *C* are those of the 15
    standard corruptions that both have; if they have none of these, all that both have.

    Parameters
    ----------
    measured
        What `measure` gives, or a published table (then without intervals).
    baseline
        What `read_baseline` gives, taken as exact. Its severities must include those measured.
    replicates, seed
        Of the bootstrap over images, the same images in all corruptions, and paired between networks.

    Returns
    -------
    xarray.Dataset
        Over ``measure`` (mCE, mCNLL, mCECE): ``value``, ``stderr`` (bootstrap), ``low`` and ``high`` (95 %, of means by
        `landscape.metrics.confidence.skewed`, of the calibration error by `absolute_sum`, which takes its bias off;
        mCE and mCNLL have none, not a number, where every prediction under some corruption is right, since the rare
        errors that weigh most there are not among those seen),
        ``debiased``, the value without that bias, and ``replicate`` (measure, replicate); over
        ``(measure, corruption)`` the ``ratio``.
        All are shares: 1 is the baseline. Where it makes no error under some corruption, there is no mCE, not a number.

    Raises
    ------
    LandscapeError
        When the two share no corruption or severity.
    """
    names = [str(name) for name in measured["corruption"].values if name in baseline["corruption"].values]
    names = [name for name in names if name in STANDARD] or names
    severities = [int(severity) for severity in measured["severity"].values]
    if not names or not set(severities) <= set(baseline["severity"].values.tolist()):
        raise LandscapeError(
            f"the baseline has corruptions {', '.join(map(str, baseline['corruption'].values))} at severities "
            f"{', '.join(map(str, baseline['severity'].values))}: none of these was measured"
        )
    wanted = {"severity": severities, "corruption": names}
    base = {name: value.sum(0) for name, value in _terms(baseline.sel(wanted)).items()}
    # Relative to no error at all there is no number.
    base = {name: np.where(value > 0, value, np.nan) for name, value in base.items()}
    chosen = measured.sel(wanted)
    ratios = np.stack([_terms(chosen)[term].sum(0) / base[term] for term in RELATIVE.values()])
    value = ratios.mean(1)
    dataset = xarray.Dataset(
        {"value": ("measure", value), "ratio": (("measure", "corruption"), ratios)},
        coords={"measure": list(RELATIVE), "corruption": names},
        attrs={
            "baseline": str(baseline.attrs.get("name", "")),
            "images_sha256": measured.attrs.get("images_sha256", ""),
        },
    )
    if "correct_of_image" in measured:
        of_image, gaps = _of_images(chosen, base)
        weights = metrics.bootstrap_weights(of_image.shape[1], replicates=replicates, seed=seed) / of_image.shape[1]
        drawn = (weights @ torch.from_numpy(of_image.T)).numpy().T
        drawn_gaps = (weights @ torch.from_numpy(gaps.T)).numpy()
        replicated = np.stack([*drawn, np.abs(drawn_gaps).sum(1)])
        sums = gaps.mean(1)
        debiased, ends = confidence.absolute_sum(sums, drawn_gaps - sums)
        of_means = np.stack(confidence.of_mean(of_image), axis=1)
        if (chosen["accuracy"] == 1).all("severity").any():
            of_means[:] = np.nan
        bounds = np.concatenate([of_means, [ends]])
        dataset["replicate"] = (("measure", "replicate"), replicated)
        dataset["stderr"] = ("measure", replicated.std(1, ddof=1))
        dataset["low"], dataset["high"] = ("measure", bounds[:, 0]), ("measure", bounds[:, 1])
        dataset["debiased"] = ("measure", np.array([*value[:-1], debiased]))
    return dataset


def difference(first: xarray.Dataset, second: xarray.Dataset) -> xarray.Dataset:
    """Second minus first of what `relative_errors` gives, paired over images, with ``stderr``, ``low`` and ``high``.

    The difference of calibration errors (mCECE) has no interval (not a number): what few images add to them is not the
    same for both, and intervals about the difference of debiased values held it in 69 to 79 % (docs/coverage.md). Nor
    has any other where one of the two has none.

    Raises
    ------
    LandscapeError
        When they are of different images or corruptions.
    """
    require_same_images([first, second])
    if not np.array_equal(first["corruption"].values, second["corruption"].values):
        raise LandscapeError("the networks were measured under different corruptions: give both the same --corruptions")
    change = second["value"] - first["value"]
    stderr = (second["replicate"] - first["replicate"]).std("replicate", ddof=1)
    bounded = np.isfinite(first["low"] + second["low"]) & (change["measure"] != "mCECE")
    half = (confidence.Z * stderr).where(bounded)
    return xarray.Dataset({"difference": change, "stderr": stderr, "low": change - half, "high": change + half})


def _terms(table: xarray.Dataset) -> dict[str, np.ndarray]:
    """Error rate, NLL and ECE (severity, corruption)."""
    ordered = table.transpose("severity", "corruption", ...)
    return {"error": 1 - ordered["accuracy"].values, "nll": ordered["nll"].values, "ece": ordered["ece"].values}


def _of_images(chosen: xarray.Dataset, base: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """What each image adds to mCE and mCNLL (2, image), and to the gap of each bin in each cell (bins, image).

    The measures are the means over images, and of mCECE the sum of the gaps' absolute means.
    """
    ordered = chosen.transpose("severity", "corruption", "image", ...)
    correct, confident = ordered["correct_of_image"].values.astype(float), ordered["confidence_of_image"].values
    weight = {name: 1 / (value * len(value)) for name, value in base.items()}
    terms = {"error": 1 - correct, "nll": ordered["nll_of_image"].values}
    of_image = np.stack([np.einsum("sci,c->i", terms[name], weight[name]) for name in terms])
    rounded = torch.from_numpy(np.ascontiguousarray(confident)).float()
    member = bin_of(rounded, BINS).numpy()
    adds = authors_bin_of(rounded, BINS).numpy() if chosen.attrs.get("binning") == "authors" else member
    gaps = [
        (np.where(adds == number, confident, 0.0) - np.where(member == number, correct, 0.0)) * weight["ece"][:, None]
        for number in range(BINS)
    ]
    return of_image, np.concatenate(gaps).reshape(-1, confident.shape[-1])
