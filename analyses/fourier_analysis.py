"""Relative log amplitudes of feature maps.

``python -m analyses.fourier_analysis --preset digits|cifar100-small|paper``
"""

from collections.abc import Sequence

from analyses import studies
from landscape.command import launch

STUDY = studies.study(
    "fourier_analysis",
    "Does dropout add high frequencies, and does smoothing remove them (C5, C6)?",
    ("mcdo", "mcdo-smooth", "dnn", "dnn-smooth"),
    ("fourier",),
)


def main(argv: Sequence[str]) -> int:
    """Run the study."""
    return studies.run(STUDY, argv)


if __name__ == "__main__":
    launch("analyses.fourier_analysis")
