"""``python -m landscape.series CKPT...``."""

from landscape.command import launch

launch("landscape.series.cli")
