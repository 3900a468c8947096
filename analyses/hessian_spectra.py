"""Hessian max-eigenvalue spectra of mini-batches, and top eigenvalues of more images at once.

``python -m analyses.hessian_spectra --preset digits|cifar100-small|paper``
"""

from collections.abc import Sequence

from analyses import studies
from landscape.command import launch

STUDY = studies.study(
    "hessian_spectra",
    "Is the curvature of smoothed networks smaller, with fewer outliers over mini-batches (C1, C2, C11)?",
    ("mcdo", "mcdo-smooth", "dnn", "dnn-smooth"),
    ("hessian", "mini_batches"),
)


def main(argv: Sequence[str]) -> int:
    """Run the study."""
    return studies.run(STUDY, argv)


if __name__ == "__main__":
    launch("analyses.hessian_spectra")
