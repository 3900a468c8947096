"""The objective: loss, gradient and curvature as functions of one flat parameter vector."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.objective import fit
    from landscape.objective.inference import Inference, Precision
    from landscape.objective.objective import Objective, Terms, require_finite
    from landscape.objective.operators import CurvatureOperator, Plan
    from landscape.objective.parameters import ParameterSpace

__all__ = [
    "CurvatureOperator",
    "Inference",
    "Objective",
    "ParameterSpace",
    "Plan",
    "Precision",
    "Terms",
    "fit",
    "require_finite",
]

lazy.attach(__name__)
