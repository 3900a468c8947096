"""``python -m analyses.audit``."""

from landscape.command import launch

launch("analyses.audit.cli")
