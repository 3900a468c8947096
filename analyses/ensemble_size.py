"""Metrics of the average of N dropout passes.

``python -m analyses.ensemble_size --preset digits|cifar100-small|paper``
"""

from collections.abc import Sequence

from analyses import studies
from landscape.command import launch

STUDY = studies.study(
    "ensemble_size",
    "Are smoothed networks better at every ensemble size, and how many passes do they save (C8, C9, C13)?",
    ("mcdo", "mcdo-smooth", "dnn", "dnn-smooth"),
    ("predictions",),
)


def main(argv: Sequence[str]) -> int:
    """Run the study."""
    return studies.run(STUDY, argv)


if __name__ == "__main__":
    launch("analyses.ensemble_size")
