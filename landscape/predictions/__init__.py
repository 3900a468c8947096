"""Predictions of ensembles: Monte-Carlo passes, ensemble-size curves, effective ensemble sizes, calibration."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.predictions import picture
    from landscape.predictions.choices import SIZES
    from landscape.predictions.curves import curves
    from landscape.predictions.efficiency import effective_size
    from landscape.predictions.passes import Predictor, deep_ensemble, measure
    from landscape.predictions.terms import per_term, several

__all__ = [
    "SIZES",
    "Predictor",
    "curves",
    "deep_ensemble",
    "effective_size",
    "measure",
    "per_term",
    "picture",
    "several",
]

lazy.attach(__name__)
