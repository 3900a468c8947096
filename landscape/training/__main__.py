"""``python -m landscape.training RECIPE [RECIPE ...]``: train networks, or find them trained."""

from landscape.command import launch

launch("landscape.training.cli")
