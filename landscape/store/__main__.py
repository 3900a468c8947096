"""``python -m landscape.store [--seal] FILE...``."""

from landscape.command import launch

launch("landscape.store.cli")
