"""The smoothing layer's temperature, from hard bounds to none.

``python -m analyses.temperature --preset digits|cifar100-small|paper``
"""

from collections.abc import Sequence

from analyses import studies
from landscape.command import launch

STUDY = studies.study(
    "temperature",
    "How much does the temperature t of the smoothing's tanh matter?",
    ("mcdo", "mcdo-t1", "mcdo-t3", "mcdo-smooth", "mcdo-t30", "mcdo-blur"),
    studies.ABLATION,
)


def main(argv: Sequence[str]) -> int:
    """Run the study."""
    return studies.run(STUDY, argv)


if __name__ == "__main__":
    launch("analyses.temperature")
