"""Block, thick-restarted Lanczos with full reorthogonalisation.

The search space and the origin of the residuals are explained in `landscape.eigen.search_space`, the search for copies
of multiple eigenvalues in `landscape.eigen.copies`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from landscape.eigen.copies import CopyCheck, ends_of
from landscape.eigen.neighbour import Neighbour
from landscape.eigen.operator import Operator, Products, random_direction
from landscape.eigen.pairs import FLOOR, Callback, Eigenpairs, Which, wanted
from landscape.eigen.search_space import Ritz, SearchSpace
from landscape.errors import LandscapeError

# The same for the smallest one that comes with the others: it often lies at the edge of a bulk that is a hundredth of
# the spectrum and as good as zero beside the largest, where a relative error would cost more than all else.
_SMALLEST_FLOOR = 0.03


@dataclass(frozen=True)
class Lanczos:
    """The settings of a search; call it to run it. See `landscape.eigen.eigenpairs` for what they mean."""

    start: Tensor | None = None
    basis_limit: int | None = None
    deflate: Eigenpairs | None = None
    smallest: float | None = None
    keep_space: bool = False
    confidence: float = 0.95
    near: Eigenpairs | None = None

    def __call__(
        self,
        operator: Operator,
        count: int,
        *,
        which: Which,
        tolerance: float,
        seed: int,
        max_products: int,
        callback: Callback | None,
    ) -> Eigenpairs:
        """Search `count` pairs of an operator."""
        products = Products(operator)
        space = self._space(products, count)
        search = _Search(self, space, count, which, tolerance, seed, max_products, callback)
        search.begin()
        search.run()
        return search.result()

    def _space(self, products: Products, count: int) -> SearchSpace:
        size = products.operator.size
        known = 0 if self.deflate is None else self.deflate.vectors.shape[1]
        block = 1 if self.start is None or self.start.ndim == 1 else self.start.shape[1]
        block = block if self.near is None else count + 2
        if self.start is not None and self.start.shape[0] != size:
            raise LandscapeError(
                f"eigenpairs: start has {self.start.shape[0]} entries, the operator {size}; give (n,) or (n, b)"
            )
        limit = self.basis_limit if self.basis_limit is not None else max(60, 3 * count + 20) + 2 * block
        # The check may add one pending row; a restart must free room for at least one product beyond the kept pairs.
        least = count + (self.smallest is not None) + block + 4
        if limit < least and limit < size:
            raise LandscapeError(
                f"eigenpairs: basis_limit {limit} is too small for {count} pairs; give {least} or more"
            )
        vectors = None if self.deflate is None else self.deflate.vectors
        return SearchSpace(products, min(limit, size - known), vectors)


class _Search:
    """One search, step by step: advance, judge, report; look for copies, restart when the room is used up, aim."""

    def __init__(
        self,
        settings: Lanczos,
        space: SearchSpace,
        count: int,
        which: Which,
        tolerance: float,
        seed: int,
        budget: int,
        callback: Callback | None,
    ) -> None:
        self.settings = settings
        self.space = space
        self.products = space.products
        self.count, self.which, self.tolerance = count, which, tolerance
        self.seed, self.budget, self.callback = seed, budget, callback
        self.near = None if settings.near is None else Neighbour(settings.near, space.products.operator.size)
        self.check: CopyCheck | None = None
        # How many pending rows are multiplied next, and whether the check's is.
        self.width = 1
        self.on_check = False
        self.missed = 1.0
        # Whether the search's own next direction has been multiplied since everything wanted has converged.
        self.done = self.settled = False
        # log(error / goal) of the last pair to converge, after each product.
        self.excess: list[float] = []
        self.drawn = 0

    def begin(self) -> None:
        """Make the start pending."""
        start, operator = self.settings.start, self.products.operator
        if self.near is not None:
            start = self.near.starts(self.count, self.which, smallest=self.settings.smallest is not None)
        if start is None:
            self._add_random()
            return
        for column in start.reshape(operator.size, -1).T:
            self.space.add(column.to(device=operator.device, dtype=operator.dtype))
        if self.space.pending == 0:
            raise LandscapeError("eigenpairs: the start is zero or lies in the deflated space; give another or none")
        if self.near is not None:
            self.width = self.space.pending
            if self.settings.confidence > 0:
                # From the first product on, beside the others: alone it costs most.
                self._begin_check(self.near.products)
                self.on_check = True

    def run(self) -> None:
        """Take products until everything wanted has converged, or the budget is spent."""
        while True:
            self._advance()
            self._judge()
            self._report()
            if self._finished():
                return
            begins = self.done and (self.check is None or self.check.spoilt)
            space, whole = self.space, self.products.operator.size
            ahead = 2 * len(self.sought) + 3 if self.near is not None and not self.done else 0
            if begins and space.capacity < whole and self.count + space.pending + 6 > space.capacity:
                return  # no room for a check within basis_limit
            if space.used + ahead >= space.capacity - (5 if begins else 0) and space.capacity < whole:
                self.near = None  # not near enough: from here on without it
                self._restart()
            if begins:
                self._begin_check(self.products.count)
            elif self.check is not None and self.check.ended:
                self.check = None
            if space.pending == 0:
                self._add_random()
            self._aim()

    def _add_random(self) -> None:
        while not self.space.full:
            self.drawn += 1
            if self.space.add(random_direction(self.products.operator, self.seed, "lanczos", self.drawn)):
                return

    def _advance(self) -> None:
        """Products of the first pending rows, and of the check's."""
        space, check = self.space, self.check
        left = self.budget - self.products.count
        if not space.pending or left < 1:
            return
        width = min(self.width, left)
        self.settled = self.done and (self.settled or width > 0)
        if check is None or not self.on_check or width == left:
            norms = space.step(width)
            if check is not None and norms[-1] > 0:
                space.swap(space.pending - 2, space.pending - 1)  # the check's row stays last
            return
        space.swap(width, space.pending - 1)
        row = space.block.stop + width
        norms = space.step(width + 1)
        check.diagonal.append(float(space.projected[row, row]))
        check.offdiagonal.append(norms[-1])

    def _judge(self) -> None:
        """Ritz pairs of the space as it is, and which of them are good enough."""
        self.ritz = ritz = self.space.ritz()
        self.chosen = wanted(ritz.values, self.count, self.which)
        self.sought, self.error, self.goal = _sought(ritz, self.chosen, self.tolerance, self.settings.smallest)
        self.converged = (self.error <= self.goal) & np.isfinite(ritz.residuals)
        self.done = len(self.chosen) == self.count and bool(self.converged[self.sought].all())

    def _report(self) -> None:
        """Tell the callback."""
        if self.callback is None:
            return
        if len(self.chosen) == self.count:
            worst = float((self.error[self.sought] / self.goal[self.sought]).max())
            self.excess.append(math.log(max(1e-300, worst)))
        if self.check is None:
            left = _products_left(self.excess)
            if left is not None and self.settings.confidence > 0:
                left += max(4, (self.products.count + left) // 3)
        else:
            left = max(0, self.check.limit - len(self.check.diagonal))
        ritz = self.ritz
        self.callback(self.products.count, ritz.values[self.chosen], ritz.residuals[self.chosen], left)

    def _finished(self) -> bool:
        """Whether nothing is left to do, or nothing left to do it with."""
        check, confidence = self.check, self.settings.confidence
        if self.space.pending == 0 and self.space.full:
            self.missed = 0.0
            return True
        if check is not None and check.diagonal:
            self._judge_check(check)
        if self.products.count >= self.budget or (self.done and confidence <= 0):
            return True
        if not self.done or check is None or check.spoilt:
            return False
        if check.ended and not self.settled and self.space.pending > 0:
            return False  # what the check cannot see is in the search's own next direction: that first
        return self.missed <= 1 - confidence or len(check.diagonal) >= check.limit or check.ended

    def _judge_check(self, check: CopyCheck) -> None:
        """What the check says so far."""
        ends = ends_of(self.ritz.values, self.chosen, self.which, float(self.goal[self.chosen].max()))
        others = [] if self.settings.smallest is None else [(-1, float(self.goal[0] - self.ritz.values[0]))]
        check.spoilt = check.spoilt or check.found(ends + others)
        self.missed = check.missed(ends)

    def _begin_check(self, products: int) -> None:
        """Follow a random direction, looking for copies, for a third as many products at most."""
        limit = min(max(4, products // 3), self.space.capacity - self.space.used - 1)
        self.check = CopyCheck(self.products.operator.size - self.space.used, limit)
        self.missed = 1.0
        self._add_random()

    def _restart(self) -> None:
        """Thick restart: keep the wanted pairs and half of the rest of the room.

        More kept pairs converge sooner, more room gives longer polynomials between restarts.
        """
        space, done = self.space, self.done
        room = space.capacity - space.pending - 2
        keep = min(space.processed, self.count + max(1, (room - self.count) // 2))
        space.restart(self.ritz, np.union1d(wanted(self.ritz.values, keep, self.which), self.sought))
        self._judge()
        self.done = done
        if self.check is not None:
            self.check.spoilt = True  # its vectors are mixed into the kept ones

    def _aim(self) -> None:
        """The next product goes to the sought pair farthest from its goal, or to the check."""
        space, check, sought = self.space, self.check, self.sought
        if self.near is not None and not self.done:
            self._correct(self.near)
            return
        on_check = check is not None and self.done
        if not on_check and space.processed and space.pending > 1:
            worst = sought[int(np.argmax(np.where(self.converged[sought], 0, self.ritz.residuals[sought])))]
            pending = slice(space.block.stop, space.used)
            leading = space.projected[pending, space.block] @ self.ritz.coefficients[:, worst]
            on_check = check is not None and abs(leading[-1]) >= np.linalg.norm(leading[:-1])
            if not on_check:
                space.aim(leading if check is None else leading[:-1])
        self.on_check = on_check or (check is not None and space.pending == 1)
        self.width = 0 if self.on_check else 1

    def _correct(self, near: Neighbour) -> None:
        """The next products go to the corrections of all sought pairs that have not converged, and to the check."""
        space, last = self.space, 0 if self.check is None else 1
        pairs = self.sought[~self.converged[self.sought]]
        coefficients = self.ritz.coefficients[:, pairs]
        rows = space.rows[space.block.stop : space.used]
        remainders = space.projected[space.block.stop : space.used, space.block] @ coefficients
        residuals = rows.T @ torch.from_numpy(remainders).to(rows)
        vectors = space.vectors(coefficients)
        self.width = space.steer(near.corrections(self.ritz.values[pairs], vectors, residuals), last=last)
        self.on_check = last == 1
        if self.width == 0 and not self.on_check:
            self.width = 1

    def result(self) -> Eigenpairs:
        """The wanted pairs as they are now."""
        ritz, chosen = self.ritz, self.chosen
        # Rounding moves every eigenvalue by its norm at most, to first order: no gap makes that smaller.
        rounding = getattr(self.products.operator, "relative_rounding", 0.0) * ritz.scale
        return Eigenpairs(
            values=ritz.values[chosen],
            vectors=self.space.vectors(ritz.coefficients[:, chosen]),
            residuals=ritz.residuals[chosen] + rounding,
            errors=ritz.errors[chosen] + rounding,
            converged=self.converged[chosen],
            products=self.products.count,
            missed_probability=self.missed,
            smallest=float(ritz.values[0]),
            smallest_residual=float(ritz.residuals[0]) + rounding,
            space=self.space if self.settings.keep_space else None,
        )


def _sought(
    ritz: Ritz, chosen: np.ndarray, tolerance: float, smallest: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the Ritz values that are waited for; the error of every Ritz value, and at which it has converged.

    What cannot be had in this precision is not waited for.
    """
    error = ritz.errors.copy()
    goal = tolerance * np.maximum(np.abs(ritz.values), FLOOR * ritz.scale)
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
