"""``python -m landscape.frequency_noise CKPT...``."""

from landscape.command import launch

launch("landscape.frequency_noise.cli")
