"""Look at neural networks from the inside: loss landscape and feature maps."""

__version__ = "0.1.0"
