"""An MLP head against global average pooling: landscape and training loss.

``python -m analyses.mlp_head --preset digits|cifar100-small|paper``
"""

from collections.abc import Sequence

from analyses import studies
from landscape.command import launch

STUDY = studies.study(
    "mlp_head",
    "Is the landscape of an MLP head sharper and rougher than that of GAP, and its training NLL higher (C11)?",
    ("mcdo", "mcdo-mlp"),
    ("mini_batches", "surface", "training"),
)


def main(argv: Sequence[str]) -> int:
    """Run the study."""
    return studies.run(STUDY, argv)


if __name__ == "__main__":
    launch("analyses.mlp_head")
