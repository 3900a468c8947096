"""``python -m landscape.feature_maps CKPT...``."""

from landscape.command import launch

launch("landscape.feature_maps.cli")
