"""Hessian spectra: top eigenvalues, trace, density, and what is known about the error of each."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.hessian import measurements, picture
    from landscape.hessian.activations import ActivationOperator, activation_curvature
    from landscape.hessian.blocks import block_spectra
    from landscape.hessian.diagonal import diagonal
    from landscape.hessian.image_groups import image_group_spectrum
    from landscape.hessian.mini_batches import mini_batch_spectra
    from landscape.hessian.over_masks import mask_spectra, mean_hessian_spectrum
    from landscape.hessian.pyhessian_solver import pyhessian_spectrum
    from landscape.hessian.sharpness import scale_free_spectrum, sharpness_measures
    from landscape.hessian.spectrum import spectrum
    from landscape.hessian.split import curvature_split

__all__ = [
    "ActivationOperator",
    "activation_curvature",
    "block_spectra",
    "curvature_split",
    "diagonal",
    "image_group_spectrum",
    "mask_spectra",
    "mean_hessian_spectrum",
    "measurements",
    "mini_batch_spectra",
    "picture",
    "pyhessian_spectrum",
    "scale_free_spectrum",
    "sharpness_measures",
    "spectrum",
]

lazy.attach(__name__)
