"""What the command line offers to choose from: read before any numerics are imported."""

from typing import Literal, get_args

AttackKind = Literal["fgsm", "pgd"]
ATTACKS: tuple[AttackKind, ...] = get_args(AttackKind)
# Of the 8-bit scale; 8 / 255 is the usual one for trained defences, and leaves nothing of an undefended network.
EPSILONS = (1 / 255, 2 / 255, 4 / 255, 8 / 255)
SEVERITIES = (1, 2, 3, 4, 5)
