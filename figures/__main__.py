"""``python -m figures``."""

from landscape.command import launch

launch("figures.cli")
