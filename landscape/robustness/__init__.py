"""Robustness: corrupted images, perturbed sequences, adversarial attacks."""

from landscape.robustness.adversarial import Attack
from landscape.robustness.cifar_files import CifarC, CifarP
from landscape.robustness.corrupted import difference, read_baseline, relative_errors
from landscape.robustness.corruptions import COMPUTED, EXTRA, SEVERITIES, STANDARD, Computed

__all__ = [
    "COMPUTED",
    "EXTRA",
    "SEVERITIES",
    "STANDARD",
    "Attack",
    "CifarC",
    "CifarP",
    "Computed",
    "difference",
    "read_baseline",
    "relative_errors",
]
