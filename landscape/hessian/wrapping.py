"""Operators around another one."""

from landscape.eigen.operator import Operator, SymmetricOperator, together


class Wrapping(SymmetricOperator):
    """An operator that multiplies by another one, whose size, rounding and number of vectors at once are its own.

    Parameters
    ----------
    operator
        See :class:`landscape.eigen.Operator`.
    """

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device

    @property
    def relative_rounding(self) -> float:
        """The other operator's, see `CurvatureOperator.relative_rounding`."""
        return float(getattr(self.operator, "relative_rounding", 0.0))

    def together(self, rows: int = 0) -> int:
        """As many as the other operator."""
        return together(self.operator, rows)
