"""The objective: loss, gradient and curvature as functions of one flat parameter vector."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.objective import fit
    from landscape.objective.inference import Inference, Precision
    from landscape.objective.network import Network, require_finite
    from landscape.objective.objective import Objective, Terms, Weights
    from landscape.objective.operators import CurvatureOperator, Plan
    from landscape.objective.parameters import ParameterSpace

__all__ = [
    "CurvatureOperator",
    "Inference",
    "Network",
    "Objective",
    "ParameterSpace",
    "Plan",
    "Precision",
    "Terms",
    "Weights",
    "fit",
    "require_finite",
]

lazy.attach(__name__)
