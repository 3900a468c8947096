"""Curvature while a network trains: a few lines in anybody's loop."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.monitor.callbacks import lightning_callback, transformers_callback
    from landscape.monitor.monitor import Monitor

__all__ = ["Monitor", "lightning_callback", "transformers_callback"]

lazy.attach(__name__)
