"""``python -m landscape.robustness CKPT...``."""

from landscape.command import launch

launch("landscape.robustness.cli")
