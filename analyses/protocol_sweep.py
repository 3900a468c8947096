"""Under which protocol does the landscape claim hold? Curvature under every combination of protocol choices.

``python -m analyses.protocol_sweep --preset digits|cifar100-small|paper``
"""

from collections.abc import Sequence

from analyses import studies
from landscape.command import launch

CHOICES = {
    "l2": ("exact", "none"),
    "augmentation": ("frozen", "none"),
    "dropout": ("fixed", "off"),
}
VARIANTS = {
    f"L2 {l2}, augmentation {augmentation}, masks {dropout}": {
        "l2": l2,
        "augmentation": augmentation,
        "dropout": dropout,
    }
    for l2 in CHOICES["l2"]
    for augmentation in CHOICES["augmentation"]
    for dropout in CHOICES["dropout"]
}
STUDY = studies.study(
    "protocol_sweep",
    "Under which protocol are the top eigenvalues of smoothed networks smaller (C1, C2)?",
    ("mcdo", "mcdo-smooth"),
    ("hessian", "mini_batches"),
    VARIANTS,
)


def main(argv: Sequence[str]) -> int:
    """Run the study."""
    return studies.run(STUDY, argv)


if __name__ == "__main__":
    launch("analyses.protocol_sweep")
