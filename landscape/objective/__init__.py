"""The objective: loss, gradient and curvature as functions of one flat parameter vector."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.objective import filters as filters, fit as fit
    from landscape.objective.inference import Inference as Inference, Precision as Precision
    from landscape.objective.network import Network as Network, require_finite as require_finite
    from landscape.objective.objective import Objective as Objective
    from landscape.objective.operators import CurvatureOperator as CurvatureOperator, Plan as Plan
    from landscape.objective.parameters import ParameterSpace as ParameterSpace
    from landscape.objective.terms import Terms as Terms, Weights as Weights


lazy.attach(__name__)
