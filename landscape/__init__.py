"""Look at neural networks from the inside: loss landscape and feature maps."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape import (
        checkpoint as checkpoint,
        connectivity as connectivity,
        data as data,
        eigen as eigen,
        feature_maps as feature_maps,
        fourier as fourier,
        frequency_noise as frequency_noise,
        hessian as hessian,
        metrics as metrics,
        monitor as monitor,
        nets as nets,
        objective as objective,
        predictions as predictions,
        robustness as robustness,
        selfcheck as selfcheck,
        series as series,
        store as store,
        surface as surface,
        training as training,
    )
    from landscape.checkpoint import load as load
    from landscape.errors import LandscapeError as LandscapeError
    from landscape.monitor import Monitor as Monitor
    from landscape.nets import build as build, smooth as smooth, unsmooth as unsmooth
    from landscape.objective import CurvatureOperator as CurvatureOperator, Objective as Objective
    from landscape.store.protocol import Protocol as Protocol

__version__ = "0.1.0"

# Imports nothing more until a name is used: a command answers --help and Ctrl-C before the numerics are loaded.
lazy.attach(__name__)
