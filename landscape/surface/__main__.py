"""``python -m landscape.surface CKPT...``."""

from landscape.command import launch

launch("landscape.surface.cli")
