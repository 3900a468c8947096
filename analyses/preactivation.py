"""Pre-activation, with and without smoothing.

``python -m analyses.preactivation --preset digits|cifar100-small|paper``
"""

from collections.abc import Sequence

from analyses import studies
from landscape.command import launch

STUDY = studies.study(
    "preactivation",
    "Does pre-activation act like smoothing (C12)?",
    ("mcdo", "mcdo-preact", "mcdo-smooth", "mcdo-preact-smooth"),
    studies.ABLATION,
)


def main(argv: Sequence[str]) -> int:
    """Run the study."""
    return studies.run(STUDY, argv)


if __name__ == "__main__":
    launch("analyses.preactivation")
