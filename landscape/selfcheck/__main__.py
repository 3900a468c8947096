"""``python -m landscape.selfcheck CKPT``."""

from landscape.command import launch

launch("landscape.selfcheck.cli")
