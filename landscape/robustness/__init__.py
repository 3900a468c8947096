"""Robustness: corrupted images, perturbed sequences, adversarial attacks."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.robustness import consistency as consistency, picture as picture
    from landscape.robustness.adversarial import Attack as Attack
    from landscape.robustness.choices import SEVERITIES as SEVERITIES
    from landscape.robustness.cifar_files import CifarC as CifarC, CifarP as CifarP
    from landscape.robustness.corrupted import (
        difference as difference,
        read_baseline as read_baseline,
        relative_errors as relative_errors,
    )
    from landscape.robustness.corruptions import (
        COMPUTED as COMPUTED,
        EXTRA as EXTRA,
        STANDARD as STANDARD,
        Computed as Computed,
    )


lazy.attach(__name__)
