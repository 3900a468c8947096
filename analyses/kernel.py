"""The blur's kernel, from none to five taps.

``python -m analyses.kernel --preset digits|cifar100-small|paper``
"""

from collections.abc import Sequence

from analyses import studies
from landscape.command import launch

STUDY = studies.study(
    "kernel",
    "How much does the blur's kernel matter?",
    ("mcdo", "mcdo-tanh", "mcdo-smooth", "mcdo-kernel1-2-1", "mcdo-kernel1-3-3-1", "mcdo-kernel1-4-6-4-1"),
    studies.ABLATION,
)


def main(argv: Sequence[str]) -> int:
    """Run the study."""
    return studies.run(STUDY, argv)


if __name__ == "__main__":
    launch("analyses.kernel")
