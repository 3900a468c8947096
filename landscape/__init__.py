"""Look at neural networks from the inside: loss landscape and feature maps."""

from typing import Any

__version__ = "0.1.0"

# Exported lazily: a command line must answer --help and Ctrl-C before the numerics are loaded.
_EXPORTS = {
    "CurvatureOperator": "landscape.objective",
    "Objective": "landscape.objective",
    "Protocol": "landscape.store.protocol",
    "build": "landscape.nets",
    "smooth": "landscape.nets",
    "unsmooth": "landscape.nets",
}
__all__ = ["CurvatureOperator", "Objective", "Protocol", "__version__", "build", "smooth", "unsmooth"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_EXPORTS[name]), name)
