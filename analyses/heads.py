"""Heads: global average pooling against its rivals.

``python -m analyses.heads --preset digits|cifar100-small|paper``
"""

from collections.abc import Sequence

from analyses import studies
from landscape.command import launch

STUDY = studies.study(
    "heads",
    "Which heads flatten and predict better (C11, C12: GAP as a smoothing)?",
    ("mcdo", "mcdo-mlp", "mcdo-gap-mlp", "mcdo-max", "mcdo-median", "mcdo-clipped"),
    studies.ABLATION,
)


def main(argv: Sequence[str]) -> int:
    """Run the study."""
    return studies.run(STUDY, argv)


if __name__ == "__main__":
    launch("analyses.heads")
