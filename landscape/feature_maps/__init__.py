"""Feature maps by depth: what dropout noise does to them, and what they look like."""

from landscape.feature_maps.uncertainty import measure

__all__ = ["measure"]
