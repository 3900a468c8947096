"""Eigenpairs, spectral densities and traces of symmetric operators known only by their products with vectors."""

from landscape.eigen.lanczos import Eigenpairs, eigenpairs
from landscape.eigen.operator import Operator, dense

__all__ = ["Eigenpairs", "Operator", "dense", "eigenpairs"]
