"""Predictions of ensembles: Monte-Carlo passes, ensemble-size curves, effective ensemble sizes, calibration."""

from landscape.predictions.curves import SIZES, curves
from landscape.predictions.efficiency import effective_size
from landscape.predictions.passes import Predictor, deep_ensemble, measure

__all__ = ["SIZES", "Predictor", "curves", "deep_ensemble", "effective_size", "measure"]
