"""Eigenpairs, spectral densities and traces of symmetric operators known only by their products with vectors."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.eigen.adapters import as_operator
    from landscape.eigen.density import DensityCurve, SpectralDensity
    from landscape.eigen.estimate import Estimate, mean_of
    from landscape.eigen.operator import Operator, SymmetricOperator, dense
    from landscape.eigen.pairs import Eigenpairs
    from landscape.eigen.quadrature import spectral_density
    from landscape.eigen.solvers import eigenpairs
    from landscape.eigen.trace import Moments, frobenius, moments, trace
    from landscape.eigen.warm import WarmStarts

__all__ = [
    "DensityCurve",
    "Eigenpairs",
    "Estimate",
    "Moments",
    "Operator",
    "SpectralDensity",
    "SymmetricOperator",
    "WarmStarts",
    "as_operator",
    "dense",
    "eigenpairs",
    "frobenius",
    "mean_of",
    "moments",
    "spectral_density",
    "trace",
]

lazy.attach(__name__)
