"""Metrics under corruptions computed here, severities 1, 3 and 5.

``python -m analyses.corruption_robustness --preset digits|cifar100-small|paper``
"""

from collections.abc import Sequence

from analyses import studies
from landscape.command import launch

STUDY = studies.study(
    "corruption_robustness",
    "Are smoothed networks more robust to corruptions (C10)?",
    ("mcdo", "mcdo-smooth", "dnn", "dnn-smooth"),
    ("corruptions",),
)


def main(argv: Sequence[str]) -> int:
    """Run the study."""
    return studies.run(STUDY, argv)


if __name__ == "__main__":
    launch("analyses.corruption_robustness")
