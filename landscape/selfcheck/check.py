"""What a check is."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One invariant.

    Attributes
    ----------
    name
        What is compared with what.
    found, allowed
        The difference, and the largest that passes.
    meaning
        What is wrong when it fails.
    """

    name: str
    found: float
    allowed: float
    meaning: str

    @property
    def passed(self) -> bool:
        """Whether the difference is finite and within what is allowed."""
        return math.isfinite(self.found) and self.found <= self.allowed


def relative(difference: float, scale: float) -> float:
    """Difference relative to a scale; 0 / 0 is 0."""
    return difference / scale if scale > 0 else (0.0 if difference == 0 else math.inf)
