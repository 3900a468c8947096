"""Loss over a filter-normalised random plane, fresh masks in every cell.

``python -m analyses.loss_surfaces --preset digits|cifar100-small|paper``
"""

from collections.abc import Sequence

from analyses import studies
from landscape.command import launch

STUDY = studies.study(
    "loss_surfaces",
    "Is the loss surface of smoothed networks flatter, and smoother under dropout (C3, C11)?",
    ("mcdo", "mcdo-smooth", "dnn", "dnn-smooth"),
    ("surface",),
)


def main(argv: Sequence[str]) -> int:
    """Run the study."""
    return studies.run(STUDY, argv)


if __name__ == "__main__":
    launch("analyses.loss_surfaces")
