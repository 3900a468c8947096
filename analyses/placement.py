"""Smoothing after one stage at a time.

``python -m analyses.placement --preset digits|cifar100-small|paper``
"""

from collections.abc import Sequence

from analyses import studies
from landscape.command import launch

STUDY = studies.study(
    "placement",
    "After which stage does smoothing act most?",
    ("mcdo", "mcdo-stage1", "mcdo-stage2", "mcdo-stage3", "mcdo-stage4", "mcdo-smooth"),
    studies.ABLATION,
)


def main(argv: Sequence[str]) -> int:
    """Run the study."""
    return studies.run(STUDY, argv)


if __name__ == "__main__":
    launch("analyses.placement")
