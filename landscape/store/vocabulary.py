"""What the variables of results are called and measured in, so that any NetCDF reader can label them.

Names and units follow the CF conventions' attributes ``long_name`` and ``units``; "1" is a number without a unit.
An instrument that says something more precise keeps it.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import xarray

# Variable -> (what it is, its unit).
Words = Mapping[str, tuple[str, str]]
WORDS: Words = {
    # Curvature.
    "eigenvalue": ("eigenvalue of the curvature matrix", "nats"),
    "residual": ("bound: an exact eigenvalue lies within this distance", "nats"),
    "error": ("estimate of the distance to the exact eigenvalue", "nats"),
    "converged": ("whether the wanted tolerance was reached", "1"),
    "smallest_eigenvalue": ("smallest Ritz value: the smallest eigenvalue is at or below it", "nats"),
    "smallest_residual": ("bound: an exact eigenvalue lies within this distance of the smallest Ritz value", "nats"),
    "sampling_bias": ("average excess of the eigenvalue for so few images", "nats"),
    "l2_shift": ("what the L2 term adds to the eigenvalue", "nats"),
    "trace": ("trace of the curvature matrix", "nats"),
    "l2_trace": ("what the L2 term adds to the trace", "nats"),
    "node": ("quadrature node of the spectral density", "nats"),
    "node_residual": ("resolution of the quadrature node", "nats"),
    "weight": ("mass of the quadrature node", "1"),
    "density": ("spectral density", "1 / nats"),
    "grid": ("eigenvalue at which the density is given", "nats"),
    "kernel_width": ("width of the density's kernel", "nats"),
    "quantile": ("quantile of the mini-batches' largest eigenvalue", "nats"),
    "negative_share": ("share of negative eigenvalues", "1"),
    "outlier_share": ("share of outliers among the eigenvalues", "1"),
    "tail_index": ("Hill's index of the upper tail", "1"),
    "share": ("share of an eigenvector's squared length within a block", "1"),
    "block_eigenvalue": ("largest eigenvalue of a block of parameters", "nats"),
    "block_residual": ("bound of the block's eigenvalue", "nats"),
    "block_trace": ("trace of a block of parameters", "nats"),
    "block_parameters": ("number of parameters of a block", "1"),
    # Feature maps and their spectra.
    "frequency": ("spatial frequency, in units of pi", "1"),
    "delta_at_pi": ("relative log amplitude at the highest frequency", "1"),
    "depth": ("depth: 0 the first block, 1 the last", "1"),
    "noise_rms": ("root mean square of the noise", "1"),
    # Predictions.
    "nll": ("negative log-likelihood", "nats"),
    "correct": ("whether the prediction is right", "1"),
    "clean_correct": ("whether the prediction without noise is right", "1"),
    "clean_nll": ("negative log-likelihood without noise", "nats"),
    "confidence": ("largest predicted probability", "1"),
    "bin_share": ("share of the predictions within a bin of confidence", "1"),
    "bin_confidence": ("mean confidence within a bin", "1"),
    "bin_accuracy": ("accuracy within a bin", "1"),
    # Coordinates.
    "alpha": ("step along the first direction", "1"),
    "beta": ("step along the second direction", "1"),
    "rank": ("rank of the eigenvalue, the largest first", "1"),
    "probe": ("number of the random vector", "1"),
    "batch": ("number of the mini-batch", "1"),
    "probability": ("level of the quantile", "1"),
    "bound": ("end of the 95 % interval", "1"),
    "size": ("ensemble size: number of averaged passes", "1"),
    "bin": ("bin of confidence, by its middle", "1"),
    "severity": ("severity of the corruption", "1"),
    "corruption": ("name of the corruption", "1"),
    "stage": ("stage of the network", "1"),
    "image": ("number of the image", "1"),
    "step": ("number of the step", "1"),
    "time": ("epoch", "1"),
}
# What an ending adds; the unit stays.
ENDINGS = {
    "_stderr": "standard error of: {}",
    "_spread": "standard deviation over choices of passes of: {}",
    "_low": "lower end of the 95 % interval of: {}",
    "_high": "upper end of the 95 % interval of: {}",
    "_interval": "95 % interval of: {}",
    "_of_image": "of each image: {}",
}
TITLES = {
    "landscape.hessian": "Hessian spectrum",
    "landscape.surface": "loss surface",
    "landscape.feature_maps": "feature-map uncertainty",
    "landscape.fourier": "amplitude spectra of feature maps",
    "landscape.frequency_noise": "robustness to noise of one frequency band",
    "landscape.predictions": "predictions against ensemble size",
    "landscape.robustness": "robustness to corruptions and attacks",
}


# Losses that are logarithms of probabilities; all others have no unit.
_IN_NATS = ("cross_entropy", "causal_lm", "masked_lm", "bce")
# Variables that are logarithms of probabilities whatever loss was measured.
_ALWAYS_IN_NATS = ("nll", "clean_nll", "cross_entropy", "log_probability")


def unit_of_loss(attributes: Mapping[Any, Any]) -> str:
    """``nats`` where the loss of a result's protocol is a cross-entropy, ``1`` for a loss without a unit."""
    # Of a result that no command has saved, the loss stands alone.
    known = str(attributes.get("loss_name", attributes.get("fit_loss_name", "cross_entropy")))
    loss = json.loads(attributes["protocol"]).get("loss", "cross_entropy") if "protocol" in attributes else known
    return "nats" if loss.partition(",")[0] in _IN_NATS else "1"


def with_unit(label: str, results: Sequence[xarray.Dataset]) -> str:
    """A label with the loss's unit behind it in brackets, where all results have it."""
    return f"{label} (nats)" if all(unit_of_loss(result.attrs) == "nats" for result in results) else label


def described(dataset: xarray.Dataset, words: Words = WORDS) -> xarray.Dataset:
    """`dataset` with a title, and a long name and a unit for every variable; what has them keeps them.

    A result whose loss is not a cross-entropy has no nats.

    Values, dimensions and all other attributes are as before: results of earlier versions are described, too. `words`
    are an instrument's own, beside those that all share.
    """
    labelled = dataset.copy()
    plain = unit_of_loss(dataset.attrs) == "1"
    for name in labelled.variables:
        label, unit = _words(str(name), words)
        # By the variable itself: `dataset[name]` of a coordinate may be a copy.
        attributes = labelled.variables[name].attrs
        attributes.setdefault("long_name", label)
        attributes.setdefault("units", unit)
        if plain and attributes["units"].endswith("nats") and not str(name).startswith(_ALWAYS_IN_NATS):
            attributes["units"] = "1"
    title = TITLES.get(str(labelled.attrs.get("instrument", "")))
    if title is not None and "title" not in labelled.attrs:
        labelled.attrs["title"] = f"{title} of {labelled.attrs.get('name', 'a network')}"
    return labelled


def _words(name: str, own: Words) -> tuple[str, str]:
    if name in own or name in WORDS:
        return own[name] if name in own else WORDS[name]
    for ending, words in ENDINGS.items():
        if name.endswith(ending):
            base, unit = _words(name.removesuffix(ending), own)
            return words.format(base), unit
    return name.replace("_", " "), "1"
