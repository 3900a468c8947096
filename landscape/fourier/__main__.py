"""``python -m landscape.fourier CKPT...``."""

from landscape.command import launch

launch("landscape.fourier.cli")
