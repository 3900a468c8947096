"""Predictions on the same images under several conditions (corruptions, attacks), and the metrics of each."""

from collections.abc import Sequence

import numpy as np
import torch
import xarray
from torch import Tensor

from landscape import metrics
from landscape.metrics import METRICS, Examples, MetricSet
from landscape.metrics.choices import Binning
from landscape.store.pieces import Arrays

_OF_IMAGE = ("nll", "brier", "confidence", "predicted", "in_top", "excess")


def predicted(average: Tensor, labels: Tensor) -> Arrays:
    """What a journal keeps of predictions: facts of each image, from log probabilities (N, C) and labels (N,)."""
    of_images = metrics.examples(average, labels.to(average.device))
    return {field: getattr(of_images, field).cpu().numpy() for field in _OF_IMAGE}


def dataset(
    cells: Sequence[Arrays],
    labels: Tensor,
    classes: int,
    conditions: Sequence[str],
    shape: Sequence[int],
    *,
    binning: Binning = "right",
) -> xarray.Dataset:
    """Metrics of each condition, and what pairs networks image by image.

    Parameters
    ----------
    cells
        What `predicted` gives, a condition each, in C order of `shape`.
    labels, classes
        Of the images, the same in all conditions.
    conditions, shape
        Names and sizes of the dimensions of the conditions.
    binning
        Of confidences; see `MetricSet`.

    Returns
    -------
    xarray.Dataset
        Over the conditions: each metric and ``<metric>_stderr``, its standard error over images. Over conditions and
        ``image``: ``nll_of_image``, ``confidence_of_image``, ``correct_of_image``.
    """
    labels = labels.cpu()
    batches = [
        Examples(**{name: torch.from_numpy(np.array(cell[name])) for name in _OF_IMAGE}, labels=labels, classes=classes)
        for cell in cells
    ]
    results = []
    for batch in batches:
        metric_set = MetricSet(classes, binning=binning)
        metric_set.add(batch)
        results.append(metric_set.result())
    variables: dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, str]]] = {}
    for name, metric in METRICS.items():
        about = {"units": metric.unit}
        values = np.array([entry[name] for entry in results]).reshape(*shape, 2)
        variables[name] = (tuple(conditions), values[..., 0], {"long_name": metric.label, **about})
        stderr = {"long_name": "standard error over images", **about}
        variables[f"{name}_stderr"] = (tuple(conditions), values[..., 1], stderr)
    for name in ("nll", "confidence", "correct"):
        stacked = torch.stack([getattr(batch, name) for batch in batches]).numpy()
        variables[f"{name}_of_image"] = ((*conditions, "image"), stacked.reshape(*shape, -1), {})
    return xarray.Dataset(variables)
