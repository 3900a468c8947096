"""``python -m landscape.hessian CKPT...``."""

from landscape.command import launch

launch("landscape.hessian.cli")
