"""``python -m landscape.nets``: every network's name and number of parameters."""

from landscape.command import launch

launch("landscape.nets.cli")
