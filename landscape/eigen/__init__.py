"""Eigenpairs, spectral densities and traces of symmetric operators known only by their products with vectors."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.eigen.density import DensityCurve, SpectralDensity
    from landscape.eigen.estimate import Estimate, mean_of
    from landscape.eigen.lanczos import Eigenpairs, eigenpairs
    from landscape.eigen.operator import Operator, dense
    from landscape.eigen.quadrature import spectral_density
    from landscape.eigen.trace import Moments, frobenius, moments, trace

__all__ = [
    "DensityCurve",
    "Eigenpairs",
    "Estimate",
    "Moments",
    "Operator",
    "SpectralDensity",
    "dense",
    "eigenpairs",
    "frobenius",
    "mean_of",
    "moments",
    "spectral_density",
    "trace",
]

lazy.attach(__name__)
