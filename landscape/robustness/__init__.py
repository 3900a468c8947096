"""Robustness: corrupted images, perturbed sequences, adversarial attacks."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.robustness import consistency, picture
    from landscape.robustness.adversarial import Attack
    from landscape.robustness.choices import SEVERITIES
    from landscape.robustness.cifar_files import CifarC, CifarP
    from landscape.robustness.corrupted import difference, read_baseline, relative_errors
    from landscape.robustness.corruptions import COMPUTED, EXTRA, STANDARD, Computed

__all__ = [
    "COMPUTED",
    "EXTRA",
    "SEVERITIES",
    "STANDARD",
    "Attack",
    "CifarC",
    "CifarP",
    "Computed",
    "consistency",
    "difference",
    "picture",
    "read_baseline",
    "relative_errors",
]

lazy.attach(__name__)
