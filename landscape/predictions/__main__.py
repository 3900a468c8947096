"""``python -m landscape.predictions CKPT...``."""

from landscape.command import launch

launch("landscape.predictions.cli")
