"""The course of the learning rate, relative to its peak: pure functions of the step."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class OneCycle:
    """Up linearly over the first `rise` of all steps, down to zero along half a cosine.

    Source: L. N. Smith and N. Topin, "Super-convergence", 2018, in the two-phase form with cosine descent that
    torch's ``OneCycleLR`` has.

    Parameters
    ----------
    rise
        Fraction of the steps before the peak. 0.25 rather than torch's 0.3: in a run of few epochs the descent is what
        pays.
    """

    rise: float = 0.25
    warmup_epochs: int = 0

    def multiplier(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        """Learning rate over its peak at `step` of ``epochs * steps_per_epoch``."""
        place = (step + 0.5) / (epochs * steps_per_epoch)
        if place < self.rise:
            return place / self.rise
        return (1 + math.cos(math.pi * (place - self.rise) / (1 - self.rise))) / 2


@dataclass(frozen=True)
class Steps:
    """Constant, multiplied by `factor` after each of `shares` of the epochs, behind warm-up epochs that come on top.

    Parameters
    ----------
    shares
        Where the rate falls, as fractions of the epochs, so that a shorter run keeps the shape.
    factor
        What it is multiplied by.
    warmup_epochs
        Epochs before these, over which the rate rises linearly with every step from 0.
    """

    shares: tuple[float, ...]
    factor: float
    warmup_epochs: int = 1

    def multiplier(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        """Learning rate over its peak at `step`, counted from the start of the warm-up."""
        warmup = self.warmup_epochs * steps_per_epoch
        if step < warmup:
            return step / warmup
        epoch = (step - warmup) // steps_per_epoch
        return self.factor ** sum(epoch >= round(fraction * epochs) for fraction in self.shares)


Schedule = OneCycle | Steps
