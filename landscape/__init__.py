"""Look at neural networks from the inside: loss landscape and feature maps."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape import (
        checkpoint,
        connectivity,
        data,
        eigen,
        feature_maps,
        fourier,
        frequency_noise,
        hessian,
        metrics,
        monitor,
        nets,
        objective,
        predictions,
        robustness,
        selfcheck,
        series,
        store,
        surface,
        training,
    )
    from landscape.checkpoint import load
    from landscape.errors import LandscapeError
    from landscape.monitor import Monitor
    from landscape.nets import build, smooth, unsmooth
    from landscape.objective import CurvatureOperator, Objective
    from landscape.store.protocol import Protocol

__version__ = "0.1.0"
__all__ = [
    "CurvatureOperator",
    "LandscapeError",
    "Monitor",
    "Objective",
    "Protocol",
    "__version__",
    "build",
    "checkpoint",
    "connectivity",
    "data",
    "eigen",
    "feature_maps",
    "fourier",
    "frequency_noise",
    "hessian",
    "load",
    "metrics",
    "monitor",
    "nets",
    "objective",
    "predictions",
    "robustness",
    "selfcheck",
    "series",
    "smooth",
    "store",
    "surface",
    "training",
    "unsmooth",
]

# Imports nothing more until a name is used: a command answers --help and Ctrl-C before the numerics are loaded.
lazy.attach(__name__)
