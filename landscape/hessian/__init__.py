"""Hessian spectra: top eigenvalues, trace, density, and what is known about the error of each."""

from landscape.hessian.spectrum import spectrum

__all__ = ["spectrum"]
