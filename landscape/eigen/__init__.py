"""Eigenpairs, spectral densities and traces of symmetric operators known only by their products with vectors."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.eigen.adapters import as_operator as as_operator
    from landscape.eigen.density import DensityCurve as DensityCurve, SpectralDensity as SpectralDensity
    from landscape.eigen.estimate import Estimate as Estimate, mean_of as mean_of
    from landscape.eigen.operator import (
        Operator as Operator,
        SymmetricOperator as SymmetricOperator,
        dense as dense,
    )
    from landscape.eigen.pairs import Eigenpairs as Eigenpairs
    from landscape.eigen.quadrature import spectral_density as spectral_density
    from landscape.eigen.solvers import eigenpairs as eigenpairs
    from landscape.eigen.trace import (
        Moments as Moments,
        frobenius as frobenius,
        moments as moments,
        trace as trace,
    )
    from landscape.eigen.warm import WarmStarts as WarmStarts


lazy.attach(__name__)
