"""``python -m landscape.connectivity A B``."""

from landscape.command import launch

launch("landscape.connectivity.cli")
