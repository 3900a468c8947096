"""What the numerics of this room work on: a symmetric operator, known only through its products with vectors."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from landscape.compute.randomness import generator
from landscape.errors import LandscapeError

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

# Norms between these are right in float32 as they come: squares neither overflow nor vanish.
_SAFE = (1e-12, 1e18)


class Operator(Protocol):
    """A real symmetric n x n matrix A, given by its products.

    Called with a vector (n,) it returns A v, (n,); called with columns (n, k) it returns A V, (n, k). Vectors are
    `dtype` on `device`. Symmetry is the caller's promise: a network with fresh dropout masks at every call does not
    keep it, and `landscape.eigen.eigenpairs` then reports residuals that do not shrink.
    """

    @property
    def size(self) -> int:
        """The dimension n."""

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the vectors, float32 or float64."""

    @property
    def device(self) -> torch.device:
        """Where the vectors live."""

    def __call__(self, vectors: Tensor) -> Tensor:
        """Product with one vector (n,) or with the columns of (n, k)."""


class SymmetricOperator(ABC):
    """What operators of this project have in common: ``@``, and how SciPy sees them.

    Attributes
    ----------
    size, dtype, device
        See `Operator`.
    """

    size: int
    dtype: torch.dtype
    device: torch.device

    @property
    def relative_rounding(self) -> float:
        """Rounding of a product with a unit vector, relative to the operator's norm; 0 when nothing is known of it."""
        return 0.0

    def together(self, rows: int = 0) -> int:
        """How many vectors are best multiplied at once, when each needs memory for `rows` more: see `together`."""
        return 1

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n)."""
        return self.size, self.size

    @abstractmethod
    def __call__(self, vectors: Tensor) -> Tensor:
        """Product with one vector (n,) or with the columns of (n, k)."""

    def __matmul__(self, vectors: Tensor) -> Tensor:
        return self(vectors)

    def as_linear_operator(self) -> "LinearOperator":
        """As a ``scipy.sparse.linalg.LinearOperator``: arrays in, arrays out."""
        from scipy.sparse.linalg import LinearOperator

        def product(array: np.ndarray) -> np.ndarray:
            vectors = torch.from_numpy(np.ascontiguousarray(array)).to(self.device, self.dtype)
            return self(vectors).cpu().numpy()

        dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
        return LinearOperator(
            self.shape, matvec=lambda vector: product(vector.reshape(-1)), rmatvec=product, matmat=product, dtype=dtype
        )


class Dense(SymmetricOperator):
    """A matrix in memory as an operator; see `dense`."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.size = int(matrix.shape[0])
        self.dtype = matrix.dtype
        self.device = matrix.device

    def __call__(self, vectors: Tensor) -> Tensor:
        """Return A v or A V."""
        return self.matrix @ vectors


def dense(matrix: Tensor) -> Dense:
    """Operator of a symmetric matrix held in memory.

    Parameters
    ----------
    matrix
        (n, n), float32 or float64, symmetric.

    Raises
    ------
    LandscapeError
        When the matrix is not square, not of a real floating type, or not symmetric to rounding.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise LandscapeError(f"dense operator: got shape {tuple(matrix.shape)}; give a square symmetric matrix")
    if matrix.dtype not in (torch.float32, torch.float64):
        raise LandscapeError(f"dense operator: got {matrix.dtype}; convert the matrix to float32 or float64")
    scale = float(matrix.abs().max()) if matrix.numel() else 0.0
    asymmetry = float((matrix - matrix.T).abs().max()) if matrix.numel() else 0.0
    if asymmetry > 1e3 * torch.finfo(matrix.dtype).eps * scale:
        raise LandscapeError(f"dense operator: not symmetric (A - A' reaches {asymmetry:.3g}); give (A + A') / 2")
    return Dense(matrix)


def together(operator: Operator, rows: int = 0) -> int:
    """How many vectors an operator had best multiply at once: more than one where they share work and memory allows.

    It changes no bits, since only operators that multiply each column as if it were alone ask for several.

    Parameters
    ----------
    operator
        Any; one vector at a time if it does not say (`SymmetricOperator.together`).
    rows
        Vectors that the solver keeps for each that is multiplied.
    """
    return operator.together(rows) if isinstance(operator, SymmetricOperator) else 1


class Products:
    """Products with an operator, counted and checked: no result of this room rests on a NaN."""

    def __init__(self, operator: Operator, callback: Callable[[int], None] | None = None) -> None:
        if operator.size < 1:
            raise LandscapeError("operator: dimension 0; there is nothing to measure, give at least one parameter")
        self.operator = operator
        self.count = 0
        self._callback = callback

    def __call__(self, vectors: Tensor) -> Tensor:
        """Return A v or A V; raise LandscapeError when the product has the wrong shape or is not finite."""
        result = self.operator(vectors)
        first, self.count = self.count + 1, self.count + (1 if vectors.ndim == 1 else vectors.shape[1])
        if result.shape != vectors.shape:
            raise LandscapeError(
                f"product {first} with the operator: shape {tuple(result.shape)} for vectors of shape"
                f" {tuple(vectors.shape)}; an operator must return the shape it was given"
            )
        # A sum is one pass and not finite if any entry is not; the exact test runs only on suspicion.
        if not bool(torch.isfinite(result.sum())):
            finite = torch.isfinite(result)
            if not bool(finite.all()):
                column = 0 if result.ndim == 1 else int((~finite).any(dim=0).nonzero()[0])
                raise LandscapeError(
                    f"product {first + column} with the operator is not finite"
                    f" ({int((~finite).sum())} of {finite.numel()} entries);"
                    " check the weights, the loss and the precision (float64 may help)"
                )
        if self._callback is not None:
            self._callback(self.count)
        return result

    def of_each(self, vectors: Sequence[Tensor] | Tensor) -> Iterator[Tensor]:
        """Products with several vectors (n,), as many at once as the operator likes (`together`)."""
        width = together(self.operator)
        for start in range(0, len(vectors), width):
            part = vectors[start : start + width]
            if len(part) == 1:
                yield self(part[0])
            else:
                # Each in memory of its own: what linear algebra does with a vector depends on where it begins.
                yield from (column.contiguous() for column in self(torch.stack(list(part), dim=1)).T)


def random_direction(operator: Operator, seed: int, *purpose: str | int) -> Tensor:
    """A vector (n,) uniform on the unit sphere, from the stream (seed, purpose).

    Drawn on the CPU and then moved, so that every device sees the same vector. The sphere and not +-1 entries: its
    law does not depend on the basis, so projecting it on the complement of found eigenvectors gives the sphere of the
    complement again, and the spread over probes depends on the spectrum alone.
    """
    vector = torch.randn(operator.size, generator=generator(seed, *purpose), dtype=operator.dtype)
    return (vector / torch.linalg.vector_norm(vector)).to(operator.device)


def norm_of(vector: Tensor) -> float:
    """Euclidean norm, right also where squares of entries are beyond the range of their type."""
    norm = float(torch.linalg.vector_norm(vector))
    if _SAFE[0] < norm < _SAFE[1]:
        return norm
    largest = float(vector.abs().max()) if vector.numel() else 0.0
    if largest == 0 or not math.isfinite(largest):
        return largest
    return largest * float(torch.linalg.vector_norm(vector / largest))


def orthogonalise(vector: Tensor, basis: Tensor, near: Sequence[int] = ()) -> tuple[Tensor, np.ndarray, float]:
    """Take the span of orthonormal rows out of a vector: w - V' (V w).

    Classical Gram-Schmidt, two matrix-vector products, done again while a pass removes more than a third of the norm:
    passes that remove much leave rounding relative to what they removed, and over a hundred Lanczos steps that grows
    exponentially (Daniel, Gragg, Kaufman, Stewart 1976; "twice is enough", Giraud et al. 2005). Taking the few rows
    that hold nearly everything out first (`near`) usually makes the first full pass the last one.

    Parameters
    ----------
    vector
        (n,).
    basis
        (k, n), orthonormal rows; k may be 0.
    near
        Rows expected to matter, taken out before all rows are.

    Returns
    -------
    tuple
        The remainder (n,), the coefficients V w (k,) in float64, and the remainder's norm.
    """
    coefficients = np.zeros(basis.shape[0])
    norm = norm_of(vector)
    if basis.shape[0] == 0:
        return vector, coefficients, norm
    passes = [list(near)] if 0 < len(near) < basis.shape[0] else []
    for rows in [*passes, None, None, None]:
        before = norm
        chosen = basis if rows is None else basis[rows]
        projections = chosen @ vector
        vector = torch.addmv(vector, chosen.T, projections, alpha=-1)
        coefficients[slice(None) if rows is None else rows] += projections.double().cpu().numpy()
        norm = norm_of(vector)
        if rows is None and norm >= 0.7 * before:
            break
    return vector, coefficients, norm


def rotate_rows(rows: Tensor, rotation: np.ndarray) -> None:
    """Replace the first k of m rows by rotation' rows, in place, in column chunks: no second copy of the basis.

    Parameters
    ----------
    rows
        (m, n), overwritten.
    rotation
        (m, k), k <= m.
    """
    matrix = torch.from_numpy(np.ascontiguousarray(rotation.T)).to(rows)
    chunk = max(1, 2**22 // max(1, rows.shape[0]))
    for start in range(0, rows.shape[1], chunk):
        columns = rows[:, start : start + chunk]
        columns[: matrix.shape[0]] = matrix @ columns
