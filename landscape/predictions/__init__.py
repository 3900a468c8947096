"""Predictions of ensembles: Monte-Carlo passes, ensemble-size curves, effective ensemble sizes, calibration."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.predictions import picture as picture
    from landscape.predictions.choices import SIZES as SIZES
    from landscape.predictions.curves import curves as curves
    from landscape.predictions.efficiency import effective_size as effective_size
    from landscape.predictions.passes import (
        Predictor as Predictor,
        deep_ensemble as deep_ensemble,
        measure as measure,
    )
    from landscape.predictions.terms import per_term as per_term, several as several


lazy.attach(__name__)
