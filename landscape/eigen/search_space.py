"""The search space of the Lanczos method: orthonormal rows and the operator projected on them.

The basis V has orthonormal rows of three kinds, in this order: *deflated* rows (given eigenvectors, never
multiplied), *processed* rows (their products are known) and *pending* rows (directions that the products led to). With
H = V A V_processed', filled in by the orthogonalisation itself, the relation A V_processed' = V' H holds to rounding
after every step. Starting blocks, restarts, breakdowns and random directions are all only rows moved between kinds.

Residuals. For a Ritz pair y = V_processed' s, with theta, s an eigenpair of the symmetric part of the processed block
of H, the relation gives ||A y - theta y|| = ||H s - [theta s; 0]|| without one more product. The *full* matrix H is
used and not the tridiagonal one, so noise of the products (a float32 network is not exactly symmetric) enters the
residual instead of being assumed away. A rounding allowance of a few units of the last place of ||A|| is added.
Some eigenvalue of A then lies within the residual of theta: |lambda - theta| <= ||A y - theta y||.
"""

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from landscape.eigen.operator import Products, norm_of, orthogonalise, rotate_rows


@dataclass(frozen=True)
class Ritz:
    """Ritz pairs of a search space, ascending."""

    values: np.ndarray
    coefficients: np.ndarray
    residuals: np.ndarray
    errors: np.ndarray
    scale: float
    rounding: float


class SearchSpace:
    """Orthonormal rows and the projected operator; see the head of this module."""

    def __init__(self, products: Products, capacity: int, deflated: Tensor | None) -> None:
        operator = products.operator
        self.products = products
        self.deflated = 0 if deflated is None else deflated.shape[1]
        self.processed = 0
        self.pending = 0
        self.capacity = capacity + self.deflated
        # Uninitialised memory: on a CPU the system hands out pages only when rows are written.
        self.rows = torch.empty(self.capacity + 1, operator.size, dtype=operator.dtype, device=operator.device)
        self.projected = np.zeros((self.capacity + 1, self.capacity + 1))
        self.scale = 0.0
        self.lost = 0.0
        if deflated is not None:
            self.rows[: self.deflated] = deflated.T

    @property
    def used(self) -> int:
        """Number of rows in use."""
        return self.deflated + self.processed + self.pending

    @property
    def block(self) -> slice:
        """The processed rows."""
        return slice(self.deflated, self.deflated + self.processed)

    @property
    def full(self) -> bool:
        """Whether the rows already span everything."""
        return self.used >= self.products.operator.size

    def add(self, vector: Tensor) -> bool:
        """Make what is new in a direction pending; False when nothing is."""
        before = norm_of(vector)
        if self.full or before == 0:
            return False
        remainder, _, norm = orthogonalise(vector, self.rows[: self.used])
        if norm <= 100 * torch.finfo(vector.dtype).eps * before:
            return False
        self.rows[self.used] = remainder / norm
        self.projected[self.used, :] = 0
        self.pending += 1
        return True

    def aim(self, directions: np.ndarray) -> None:
        """Rotate the first pending rows so that the first ones span the combinations `directions` (k, m) of them."""
        count, norm = len(directions), np.linalg.norm(directions, axis=0)
        if count < 2 or not norm.all():
            return
        # Columns of the rotation: the directions, completed to an orthonormal basis.
        rotation = np.linalg.qr(np.column_stack([directions / norm, np.eye(count)]))[0]
        rows = slice(self.block.stop, self.block.stop + count)
        rotate_rows(self.rows[rows], rotation)
        self.projected[rows, self.block] = rotation.T @ self.projected[rows, self.block]

    def steer(self, vectors: Tensor, *, last: int = 0) -> int:
        """Make the first pending rows span vectors (n, m), but for what is processed; returns how many rows that takes.

        The `last` pending rows stay last, as they are.
        """
        before = self.pending
        for vector in vectors.T:
            if self.used < self.capacity:
                self.add(vector)
        added = self.pending - before
        for place in range(last):
            # One after the other, the new rows pass the last ones.
            for step in range(added):
                self.swap(before - 1 - place + added - step - 1, before - 1 - place + added - step)
        rows = self.rows[self.block.stop : self.used - last]
        directions = (rows @ vectors).double().cpu().numpy()
        lengths = np.linalg.norm(directions, axis=0)
        directions = directions[:, lengths > 0] / lengths[lengths > 0]
        if directions.size == 0:
            return 0
        # Directions that others span already are left out.
        _, triangle, order = scipy.linalg.qr(directions, mode="economic", pivoting=True)
        count = int((np.abs(np.diag(triangle)) > 1e-3).sum())
        self.aim(directions[:, order[:count]])
        return count

    def forget_pending(self) -> None:
        """Drop the pending rows; what products had in them counts as lost."""
        dropped = self.projected[self.block.stop : self.used, self.block]
        self.lost = float(np.hypot(self.lost, np.linalg.norm(dropped, 2) if dropped.size else 0))
        self.pending = 0

    def bring_forward(self, count: int) -> None:
        """Make the last `count` pending rows the first ones."""
        pending = slice(self.block.stop, self.used)
        self.rows[pending] = self.rows[pending].roll(count, 0)
        self.projected[pending] = np.roll(self.projected[pending], count, axis=0)

    def swap(self, first: int, second: int) -> None:
        """Exchange two pending rows, counted from the first pending one."""
        order = [self.block.stop + first, self.block.stop + second]
        self.rows[order] = self.rows[order[::-1]]
        self.projected[order] = self.projected[order[::-1]]

    def step(self, count: int = 1) -> list[float]:
        """Multiply the first pending rows; what is new in each product becomes the last pending row.

        Returns the norms of what is new.
        """
        rows = self.rows[self.block.stop : self.block.stop + min(count, self.pending)]
        return [self._take(product) for product in self.products.of_each(rows)]

    def _take(self, product: Tensor) -> float:
        """Make the first pending row a processed one, given its product; returns the norm of what is new in that."""
        index = self.deflated + self.processed
        # By symmetry the product leans on the rows whose products leaned on this one.
        symmetric = np.abs(self.projected[index, : self.used])
        near = [*np.flatnonzero(symmetric > 1e-3 * symmetric.max(initial=0)).tolist(), index]
        remainder, coefficients, norm = orthogonalise(product, self.rows[: self.used], near if len(near) < 6 else ())
        self.projected[: self.used, index] = coefficients
        self.scale = max(self.scale, float(np.hypot(np.linalg.norm(coefficients), norm)))
        used = self.used
        self.processed += 1
        self.pending -= 1
        # Below a few units of the last place of ||A|| the remainder is rounding, not a direction.
        if norm <= 16 * torch.finfo(product.dtype).eps * self.scale or used >= self.products.operator.size:
            self.lost = float(np.hypot(self.lost, norm))
            return 0.0
        self.rows[used] = remainder / norm
        self.projected[used, :] = 0
        self.projected[used, index] = norm
        self.pending += 1
        return norm

    def ritz(self) -> Ritz:
        """Ritz pairs, ascending, with residuals and sharper error estimates."""
        block = self.projected[self.block, self.block]
        values, coefficients = scipy.linalg.eigh((block + block.T) / 2)
        inside = block @ coefficients - coefficients * values
        others = np.r_[0 : self.deflated, self.block.stop : self.used]
        outside = self.projected[others, self.block] @ coefficients
        relation = np.sqrt((inside**2).sum(axis=0) + (outside**2).sum(axis=0) + self.lost**2)
        scale = max(self.scale, float(np.abs(values).max(initial=0)))
        epsilon = torch.finfo(self.rows.dtype).eps
        # Rounding of the products, of the coefficients and of y = V s: a few units of the last place, growing with the
        # number of terms.
        rounding = 8 * epsilon * np.sqrt(max(self.processed, 1)) * scale
        residuals = relation * (1 + 100 * epsilon) + rounding
        return Ritz(values, coefficients, residuals, sharper(values, residuals), scale, rounding)

    def restart(self, ritz: Ritz, keep: np.ndarray) -> None:
        """Thick restart (Wu and Simon 2000): replace the processed rows by the Ritz vectors `keep`."""
        rotation = ritz.coefficients[:, keep]
        block = self.projected[self.block, self.block]
        others = np.r_[0 : self.deflated, self.block.stop : self.used]
        coupling = self.projected[others, self.block] @ rotation
        kept = rotation.T @ block @ rotation
        # What the relation loses by dropping the other Ritz vectors is noise of the products (zero for a symmetric H).
        dropped = np.delete(ritz.coefficients, keep, axis=1)
        self.lost = float(np.hypot(self.lost, np.linalg.norm(dropped.T @ block @ rotation, 2) if dropped.size else 0))
        rotate_rows(self.rows[self.block], rotation)
        pending_from = self.block.stop
        self.processed = len(keep)
        for row in range(self.pending):
            self.rows[self.block.stop + row] = self.rows[pending_from + row]
        self.projected[:] = 0
        self.projected[self.block, self.block] = kept
        others = np.r_[0 : self.deflated, self.block.stop : self.used]
        self.projected[others, self.block] = coupling

    def vectors(self, coefficients: np.ndarray) -> Tensor:
        """Ritz vectors (n, k) of coefficients (processed, k)."""
        matrix = torch.from_numpy(np.ascontiguousarray(coefficients)).to(self.rows)
        return self.rows[self.block].T @ matrix


def sharper(values: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    """min(residual, ||R||^2 / gap) for ascending Ritz values.

    For every group of Ritz pairs with joint residual ||R|| <= (sum of squared residuals)^(1/2), an eigenvalue of the
    group is off by at most ||R||^2 / gap, gap being its distance to the spectrum outside the group, which is taken to
    lie within the residuals of the other Ritz values. Groups: each value alone, the i largest, the i smallest.
    """
    count = len(values)
    best = residuals.copy()
    distance = np.abs(values[:, None] - values[None, :]) - residuals[None, :]
    np.fill_diagonal(distance, np.inf)
    gap = distance.min(axis=1)
    # A value that stands alone has no others that tell how far the spectrum is from it: its residual is all there is.
    gap[np.isinf(gap)] = 0
    with np.errstate(divide="ignore"):
        best = np.where(gap > 0, np.minimum(best, residuals**2 / np.where(gap > 0, gap, 1)), best)
    for sign in (1, -1):
        ordered = sign * values[::sign]
        radius = residuals[::sign]
        # Upper edge of everything before position j; joint residual of everything from j on.
        edge = np.maximum.accumulate(np.r_[-np.inf, (ordered + radius)[:-1]])
        joint = np.cumsum(radius[::-1] ** 2)[::-1]
        gaps = ordered[None, :] - edge[:, None]
        allowed = (np.arange(count)[:, None] <= np.arange(count)[None, :]) & (gaps > 0)
        allowed[0] = False
        bound = np.where(allowed, joint[:, None] / np.where(allowed, gaps, 1), np.inf).min(axis=0)
        best = np.minimum(best, bound[::sign])
    return best
