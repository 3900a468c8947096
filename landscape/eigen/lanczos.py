"""A few extreme eigenpairs of a symmetric operator: block, thick-restarted Lanczos with full reorthogonalisation.

The search space and the origin of the residuals are explained in `landscape.eigen.search_space`.

Copies. Products of one starting vector see one copy of a multiple eigenvalue. When everything wanted has converged, a
random direction orthogonal to the search space is followed for a few products: a missed eigenvector u orthogonal to
the space, A u = lambda u, has overlap g with it, and the Lanczos polynomial p of that run obeys |p(lambda)| <= 1/|g|
(Hochstenbach 2013, "Probabilistic upper bounds for the matrix two-norm"). The law of g on the sphere is known, so the
probability that a copy beyond the last wanted value escaped has a bound, which is reported (`missed_probability`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import scipy.linalg
from scipy.special import betainc
from torch import Tensor

from landscape.compute.settings import measurement
from landscape.eigen.operator import Operator, Products, random_direction
from landscape.eigen.search_space import Ritz, SearchSpace
from landscape.errors import LandscapeError

Which = Literal["LA", "SA", "LM", "BE"]

# Eigenvalues below this share of the largest one are resolved relative to it: a zero has no relative accuracy.
_FLOOR = 1e-3
# The same for the smallest one that comes with the others: it often lies at the edge of a bulk that is a hundredth of
# the spectrum and as good as zero beside the largest, where a relative error would cost more than all else.
_SMALLEST_FLOOR = 0.03


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenvalues, each with what is known about its error.

    Attributes
    ----------
    values
        (k,) float64; descending for LA, LM (by magnitude) and BE, ascending for SA.
    vectors
        (n, k) orthonormal, in the operator's dtype on its device.
    residuals
        (k,) ||A y - theta y||: an eigenvalue of A lies within this distance of the value, always. The products'
        rounding is added, where the operator states it (``relative_rounding``, relative to its norm): what is meant is
        the eigenvalue of the exact operator, not of the one that float32 makes of it.
    errors
        (k,) the sharper estimate min(residual, ||R||^2 / gap), which takes the rest of the spectrum to lie where the
        search space saw it (Li and Li 2005, "A note on eigenvalues of perturbed Hermitian matrices"), and the products'
        rounding.
    converged
        (k,) bool: the residual is finite, and error <= tolerance * max(|value|, 1e-3 of the largest Ritz value) plus
        rounding.
    products
        Products with the operator.
    missed_probability
        Bound on the probability that an eigenvector orthogonal to the search space, with an eigenvalue beyond the last
        returned one, was missed: a further copy of a multiple eigenvalue. 1 when it was not looked for.
    smallest, smallest_residual
        The smallest Ritz value, never below the smallest eigenvalue but for rounding, and its residual; as sharp as
        was asked for.
    space
        The search space, if it was asked for: `landscape.eigen.trace` goes on from it.
    """

    values: np.ndarray
    vectors: Tensor
    residuals: np.ndarray
    errors: np.ndarray
    converged: np.ndarray
    products: int
    missed_probability: float
    smallest: float
    smallest_residual: float
    space: SearchSpace | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        lines = [
            f"  {value:.6g} within {residual:.1g}" + ("" if converged else ", not converged")
            for value, residual, converged in zip(self.values, self.residuals, self.converged, strict=True)
        ]
        return "\n".join(
            [
                f"Eigenpairs({len(self.values)} of {len(self.vectors):,} dimensions, {self.products:,} products):",
                *lines,
                f"  smallest {self.smallest:.6g} within {self.smallest_residual:.1g}",
            ]
        )


def _sought(
    ritz: Ritz, chosen: np.ndarray, tolerance: float, smallest: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the Ritz values that are waited for; the error of every Ritz value, and at which it has converged.

    What cannot be had in this precision is not waited for.
    """
    error = ritz.errors.copy()
    goal = tolerance * np.maximum(np.abs(ritz.values), _FLOOR * ritz.scale)
    if smallest is not None and 0 not in chosen:
        chosen = np.append(chosen, 0)
        # The sharper estimate takes the space to have seen the rest of the spectrum: not so at the edge of a bulk.
        error[0] = ritz.residuals[0]
        goal[0] = smallest * max(abs(ritz.values[0]), _SMALLEST_FLOOR * ritz.scale)
    return chosen, error, goal + 2 * ritz.rounding


def _products_left(excess: Sequence[float]) -> int | None:
    """Products until the last wanted pair converges, if log(its error / goal) goes on to fall as of late.

    None while that would be more than half of what there were: a stagnating Lanczos run says nothing about its end.
    """
    late = excess[len(excess) // 2 :]
    if len(late) < 3:
        return None
    slope = float(np.polyfit(np.arange(len(late)), late, 1)[0])
    left = math.ceil(max(0.0, late[-1]) / max(-slope, 1e-12))
    return left if 2 * left <= len(excess) else None


def _wanted(values: np.ndarray, count: int, which: Which) -> np.ndarray:
    """Indices into ascending `values` of the wanted ones, in the order in which they are reported."""
    count = min(count, len(values))
    if which == "LA":
        return np.arange(len(values))[::-1][:count]
    if which == "SA":
        return np.arange(count)
    if which == "LM":
        return np.argsort(-np.abs(values), kind="stable")[:count]
    low = count // 2
    return np.r_[np.arange(len(values))[::-1][: count - low], np.arange(low)[::-1]]


@dataclass
class _CopyCheck:
    """A run from a random direction outside the search space, looking for copies that the space cannot see.

    With q_i its vectors, u a missed eigenvector orthogonal to the space and to all that the space can still lead to,
    <u, q_i> = <u, q_0> p_i(lambda): the three-term recurrence holds whatever else of the space is taken out of q_i.
    """

    dimension: int
    started: int
    diagonal: list[float] = field(default_factory=list)
    offdiagonal: list[float] = field(default_factory=list)
    spoilt: bool = False

    @property
    def ended(self) -> bool:
        """Whether the run has met an invariant subspace."""
        return bool(self.offdiagonal) and self.offdiagonal[-1] == 0

    def values(self) -> np.ndarray:
        """Ritz values of the run alone."""
        return scipy.linalg.eigvalsh_tridiagonal(np.array(self.diagonal), np.array(self.offdiagonal[:-1]))

    def missed(self, ends: list[tuple[int, float]]) -> float:
        """Bound on the probability that an eigenvector with sign * eigenvalue >= level was missed, at any of `ends`."""
        if self.spoilt or not self.diagonal:
            return 1.0
        total = 0.0
        for sign, level in ends:
            distance = level - sign * self.values()
            if self.ended and distance.min() >= 0:
                continue  # an invariant subspace holds every eigenvector that the direction overlaps with
            if distance.min() <= 0:
                return 1.0
            logarithm = float(np.log(distance).sum() - np.log(self.offdiagonal).sum())
            if logarithm <= 0:
                return 1.0
            if self.dimension > 1:
                total += float(betainc(0.5, (self.dimension - 1) / 2, np.exp(-2 * logarithm)))
        return min(1.0, total)

    def found(self, ends: list[tuple[int, float]]) -> bool:
        """Whether the run has met a value beyond a level."""
        values = self.values()
        return any(bool((sign * values > level).any()) for sign, level in ends)


def _ends(values: np.ndarray, chosen: np.ndarray, which: Which, margin: float) -> list[tuple[int, float]]:
    """(sign, level) of the ends beyond which a missed eigenvalue would change the answer."""
    picked = values[chosen]
    if which == "LA":
        return [(1, picked.min() + margin)]
    if which == "SA":
        return [(-1, -picked.max() + margin)]
    if which == "LM":
        level = np.abs(picked).min() + margin
        return [(1, level), (-1, level)]
    low = len(picked) // 2
    ends = [(1, picked[: len(picked) - low].min() + margin)]
    return [*ends, (-1, -picked[len(picked) - low :].max() + margin)] if low else ends


@measurement
def eigenpairs(
    operator: Operator,
    count: int = 5,
    *,
    which: Which = "LA",
    tolerance: float = 1e-4,
    start: Tensor | None = None,
    seed: int = 0,
    max_products: int | None = None,
    basis_limit: int | None = None,
    deflate: Eigenpairs | None = None,
    smallest: float | None = None,
    keep_space: bool = False,
    confidence: float = 0.95,
    callback: Callable[[int, np.ndarray, np.ndarray, int | None], None] | None = None,
) -> Eigenpairs:
    """Extreme eigenpairs A y = theta y, each with a guaranteed bound |lambda - theta| <= ||A y - theta y||.

    Parameters
    ----------
    operator
        Symmetric, see `Operator`.
    count
        How many; fewer come back when the dimension is smaller.
    which
        "LA" the largest, "SA" the smallest, "LM" the largest in magnitude, "BE" both ends (half from each, the odd one
        from the top).
    tolerance
        Wanted relative error of every eigenvalue, measured by `Eigenpairs.errors`. The error is quadratic in the
        residual, so 1e-4 (well under what sampling the images costs) needs residuals of about 1e-2 only.
    start
        Starting vector (n,) or block (n, b), e.g. eigenvectors of a neighbouring problem; random by default.
    seed
        Of the random directions.
    max_products
        Give up after so many (default 300, or 40 for each wanted pair if that is more); unconverged pairs say so.
    basis_limit
        Rows kept at most before a thick restart: memory is basis_limit * n numbers. Default: 60 or 3 * count + 20.
    deflate
        Pairs already known: the search stays orthogonal to their vectors.
    smallest
        Wanted residual of the smallest eigenvalue too, whatever `which` says, as a share of itself or of 3 % of the
        largest in magnitude, whichever is more: the same search space serves both ends, so this costs far less than a
        search of its own. None waits for nothing.
    keep_space
        Return the search space too; it holds its memory.
    confidence
        Wanted certainty that no copy of a multiple eigenvalue was missed. At most a third as many products as the pairs
        themselves took (and at least 4) are spent on it; what was reached is in `missed_probability`. 0 spends none.
        The bound is for the worst case, and each further digit costs 1 to 3 products.
    callback
        Called after every product with (products, current wanted values, their residuals, products expected to be
        left or None while nothing can be said).

    Returns
    -------
    Eigenpairs

    Raises
    ------
    LandscapeError
        For a product that is not finite, a start of the wrong shape, and impossible settings.

    References
    ----------
    Wu and Simon 2000 (thick restart); Ruhe 1979 (band Lanczos); Hochstenbach 2013 (the bound on missed copies).
    """
    size = operator.size
    if count < 1:
        raise LandscapeError(f"eigenpairs: count is {count}; ask for at least 1")
    if which not in ("LA", "SA", "LM", "BE"):
        raise LandscapeError(f"eigenpairs: which is {which!r}; choose LA, SA, LM or BE")
    products = Products(operator)
    known = 0 if deflate is None else deflate.vectors.shape[1]
    count = min(count, size - known)
    if count < 1:
        raise LandscapeError(f"eigenpairs: all {size} dimensions are deflated already; deflate fewer pairs")
    block = 1 if start is None or start.ndim == 1 else start.shape[1]
    if start is not None and start.shape[0] != size:
        raise LandscapeError(
            f"eigenpairs: start has {start.shape[0]} entries, the operator {size}; give (n,) or (n, b)"
        )
    limit = basis_limit if basis_limit is not None else max(60, 3 * count + 20) + 2 * block
    # The check may add one pending row; a restart must free room for at least one product beyond the kept pairs.
    least = count + (smallest is not None) + block + 4
    if limit < least and limit < size:
        raise LandscapeError(f"eigenpairs: basis_limit {limit} is too small for {count} pairs; give {least} or more")
    budget = max_products if max_products is not None else max(300, 40 * count)
    if budget < 1:
        raise LandscapeError(f"eigenpairs: max_products is {budget}; allow at least 1")

    space = SearchSpace(products, min(limit, size - known), None if deflate is None else deflate.vectors)
    fresh = 0

    def add_random() -> None:
        nonlocal fresh
        while not space.full:
            fresh += 1
            if space.add(random_direction(operator, seed, "lanczos", fresh)):
                return

    if start is not None:
        for column in start.reshape(size, -1).T:
            space.add(column.to(device=operator.device, dtype=operator.dtype))
        if space.pending == 0:
            raise LandscapeError("eigenpairs: the start is zero or lies in the deflated space; give another or none")
    else:
        add_random()

    check: _CopyCheck | None = None
    check_limit = 0
    on_check = False
    missed = 1.0
    excess: list[float] = []
    while True:
        if space.pending and products.count < budget:
            row = space.deflated + space.processed
            norm = space.step()
            if check is not None and on_check:
                check.diagonal.append(float(space.projected[row, row]))
                check.offdiagonal.append(norm)
            elif check is not None and norm > 0:
                space.swap(space.pending - 2, space.pending - 1)  # the check's row stays last
        ritz = space.ritz()
        chosen = _wanted(ritz.values, count, which)
        sought, error, goal = _sought(ritz, chosen, tolerance, smallest)
        converged = (error <= goal) & np.isfinite(ritz.residuals)
        done = len(chosen) == count and bool(converged[sought].all())
        if callback is not None:
            if len(chosen) == count:
                excess.append(math.log(max(1e-300, float((error[sought] / goal[sought]).max()))))
            if check is None:
                left = _products_left(excess)
                if left is not None and confidence > 0:
                    left += max(4, (products.count + left) // 3)
            else:
                left = max(0, check_limit - len(check.diagonal))
            callback(products.count, ritz.values[chosen], ritz.residuals[chosen], left)
        if space.pending == 0 and space.full:
            missed = 0.0
            break
        if check is not None and check.diagonal:
            ends = _ends(ritz.values, chosen, which, float(goal[chosen].max()))
            others = [] if smallest is None else [(-1, float(goal[0] - ritz.values[0]))]
            check.spoilt = check.spoilt or check.found(ends + others)
            missed = check.missed(ends)
        if products.count >= budget or (done and confidence <= 0):
            break
        if done and check is not None and not check.spoilt:
            spent = len(check.diagonal)
            if missed <= 1 - confidence or spent >= check_limit or check.ended:
                break
        start_check = done and (check is None or check.spoilt)
        if start_check and space.capacity < size and count + space.pending + 6 > space.capacity:
            break  # no room for a check within basis_limit
        if space.used >= space.capacity - (5 if start_check else 0) and space.capacity < size:
            # Keep the wanted pairs and half of the rest of the room: more kept pairs converge sooner, more room gives
            # longer polynomials between restarts.
            room = space.capacity - space.pending - 2
            keep = min(space.processed, count + max(1, (room - count) // 2))
            kept = _wanted(ritz.values, keep, which)
            space.restart(ritz, np.union1d(kept, sought))
            ritz = space.ritz()
            chosen = _wanted(ritz.values, count, which)
            sought, error, goal = _sought(ritz, chosen, tolerance, smallest)
            converged = (error <= goal) & np.isfinite(ritz.residuals)
            if check is not None:
                check.spoilt = True  # its vectors are mixed into the kept ones
        if start_check:
            check_limit = min(max(4, products.count // 3), space.capacity - space.used - 1)
            check = _CopyCheck(size - space.used, products.count)
            missed = 1.0
            add_random()
        elif check is not None and check.ended:
            check = None
        if space.pending == 0:
            add_random()

        # The next product goes to the sought pair farthest from its goal, else to the check.
        on_check = check is not None and done
        if not on_check and space.processed and space.pending > 1:
            worst = sought[int(np.argmax(np.where(converged[sought], 0, ritz.residuals[sought])))]
            leading = space.projected[space.block.stop : space.used, space.block] @ ritz.coefficients[:, worst]
            on_check = check is not None and abs(leading[-1]) >= np.linalg.norm(leading[:-1])
            if not on_check:
                space.aim(leading if check is None else leading[:-1])
        if not on_check and check is not None and space.pending == 1:
            on_check = True
        if on_check:
            space.swap(0, space.pending - 1)

    # Rounding moves every eigenvalue by its norm at most, to first order: no gap makes that smaller.
    rounding = getattr(operator, "relative_rounding", 0.0) * ritz.scale
    return Eigenpairs(
        values=ritz.values[chosen],
        vectors=space.vectors(ritz.coefficients[:, chosen]),
        residuals=ritz.residuals[chosen] + rounding,
        errors=ritz.errors[chosen] + rounding,
        converged=converged[chosen],
        products=products.count,
        missed_probability=missed,
        smallest=float(ritz.values[0]),
        smallest_residual=float(ritz.residuals[0]) + rounding,
        space=space if keep_space else None,
    )
