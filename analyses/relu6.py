"""ReLU6 and tanh, with and without blur.

``python -m analyses.relu6 --preset digits|cifar100-small|paper``
"""

from collections.abc import Sequence

from analyses import studies
from landscape.command import launch

STUDY = studies.study(
    "relu6",
    "Does bounding alone, as ReLU6 does, act like smoothing (C12)?",
    ("mcdo", "mcdo-relu6", "mcdo-relu6-blur", "mcdo-tanh", "mcdo-smooth"),
    studies.ABLATION,
)


def main(argv: Sequence[str]) -> int:
    """Run the study."""
    return studies.run(STUDY, argv)


if __name__ == "__main__":
    launch("analyses.relu6")
