"""``python -m landscape``: lists the instruments."""

from landscape.command import launch

launch("landscape.cli")
