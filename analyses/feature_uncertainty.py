"""Model and data uncertainty of feature maps by depth.

``python -m analyses.feature_uncertainty --preset digits|cifar100-small|paper``
"""

from collections.abc import Sequence

from analyses import studies
from landscape.command import launch

STUDY = studies.study(
    "feature_uncertainty",
    "Does smoothing lower the variance of feature maps over dropout masks (C4)?",
    ("mcdo", "mcdo-smooth"),
    ("feature_maps",),
)


def main(argv: Sequence[str]) -> int:
    """Run the study."""
    return studies.run(STUDY, argv)


if __name__ == "__main__":
    launch("analyses.feature_uncertainty")
