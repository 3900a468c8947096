"""``python -m analyses [STUDY]``: the studies, or one of them."""

from landscape.command import launch

launch("analyses.cli")
