"""Accuracy under noise in a ring of frequencies.

``python -m analyses.noise_robustness --preset digits|cifar100-small|paper``
"""

from collections.abc import Sequence

from analyses import studies
from landscape.command import launch

STUDY = studies.study(
    "noise_robustness",
    "Do smoothed networks lose less accuracy under high-frequency noise (C7)?",
    ("mcdo", "mcdo-smooth", "dnn", "dnn-smooth"),
    ("frequency_noise",),
)


def main(argv: Sequence[str]) -> int:
    """Run the study."""
    return studies.run(STUDY, argv)


if __name__ == "__main__":
    launch("analyses.noise_robustness")
