"""Hessian spectra: top eigenvalues, trace, density, and what is known about the error of each."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.hessian import measurements as measurements, picture as picture
    from landscape.hessian.activations import (
        ActivationOperator as ActivationOperator,
        activation_curvature as activation_curvature,
    )
    from landscape.hessian.blocks import block_spectra as block_spectra
    from landscape.hessian.diagonal import diagonal as diagonal
    from landscape.hessian.image_groups import image_group_spectrum as image_group_spectrum
    from landscape.hessian.mini_batches import mini_batch_spectra as mini_batch_spectra
    from landscape.hessian.over_masks import (
        mask_spectra as mask_spectra,
        mean_hessian_spectrum as mean_hessian_spectrum,
    )
    from landscape.hessian.pyhessian_solver import pyhessian_spectrum as pyhessian_spectrum
    from landscape.hessian.sharpness import (
        scale_free_spectrum as scale_free_spectrum,
        sharpness_measures as sharpness_measures,
    )
    from landscape.hessian.spectrum import spectrum as spectrum
    from landscape.hessian.split import curvature_split as curvature_split


lazy.attach(__name__)
