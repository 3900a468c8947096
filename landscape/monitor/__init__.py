"""Curvature while a network trains: a few lines in anybody's loop."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.monitor.callbacks import (
        lightning_callback as lightning_callback,
        transformers_callback as transformers_callback,
    )
    from landscape.monitor.monitor import Monitor as Monitor


lazy.attach(__name__)
