"""Other people's operators, as ours."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.eigen.operator import Operator, SymmetricOperator, dense
from landscape.errors import LandscapeError


class Function(SymmetricOperator):
    """A function that multiplies a vector (n,), as an operator.

    Parameters
    ----------
    function
        v -> A v.
    size, dtype, device
        Of the vectors.
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.function = function
        self.size, self.dtype, self.device = size, dtype, device

    def __call__(self, vectors: Tensor) -> Tensor:
        """Return A v, or A V column by column."""
        if vectors.ndim == 1:
            return self.function(vectors)
        return torch.stack([self.function(column) for column in vectors.T], dim=1)


def as_operator(
    matrix: Any,
    *,
    size: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Operator:
    """Anything that multiplies vectors, as an operator.

    Parameters
    ----------
    matrix
        An operator of ours, or whatever has its attributes; a tensor or array (n, n); a
        ``scipy.sparse.linalg.LinearOperator`` or sparse matrix; a linear operator of curvlinops; PyHessian's
        ``hessian`` object; a function v -> A v of vectors (n,), with its `size`. Symmetry is the caller's promise.
    size, dtype, device
        Of a function's vectors; others say theirs.

    Returns
    -------
    Operator
        With ``@`` and `SymmetricOperator.as_linear_operator`, unless it was an operator already.

    Raises
    ------
    LandscapeError
        When it is none of these, not square, or a function without its size.

    Examples
    --------
    >>> import scipy.sparse
    >>> from landscape.eigen import as_operator, eigenpairs
    >>> matrix = scipy.sparse.diags_array(range(1, 11), dtype=float)
    >>> eigenpairs(as_operator(matrix), 2).values.round(3).tolist()
    [10.0, 9.0]
    """
    if isinstance(matrix, Tensor):
        return dense(matrix)
    if isinstance(matrix, np.ndarray):
        return dense(torch.from_numpy(np.ascontiguousarray(matrix)))
    if callable(matrix) and all(hasattr(matrix, name) for name in ("size", "dtype", "device")):
        return matrix  # type: ignore[no-any-return]
    if all(hasattr(matrix, name) for name in ("params", "gradsH", "dataloader_hv_product")):
        return _pyhessian(matrix)
    shape = getattr(matrix, "shape", None)
    if shape is not None:
        if len(shape) != 2 or shape[0] != shape[1]:
            raise LandscapeError(f"operator: got shape {tuple(shape)}; give a square symmetric matrix")
        if isinstance(getattr(matrix, "dtype", None), torch.dtype):
            return Function(lambda vector: matrix @ vector, int(shape[0]), matrix.dtype, torch.device(matrix.device))
        return _scipy(matrix, int(shape[0]))
    if not callable(matrix):
        raise LandscapeError(f"operator: a {type(matrix).__name__} does not multiply vectors; give one that does")
    if size is None:
        raise LandscapeError("operator: a function does not say its dimension; give size=")
    return Function(matrix, size, dtype, torch.device(device))


def _scipy(matrix: Any, size: int) -> Operator:
    from scipy.sparse.linalg import aslinearoperator

    linear = aslinearoperator(matrix)
    dtype = torch.float32 if linear.dtype == np.float32 else torch.float64

    def product(vector: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(linear.matvec(vector.numpy()))).to(dtype)

    return Function(product, size, dtype, torch.device("cpu"))


def _pyhessian(peer: Any) -> Operator:
    import importlib

    parameters = list(peer.params)
    sizes = [parameter.numel() for parameter in parameters]
    utilities: Any = importlib.import_module("pyhessian.utils")

    def product(vector: Tensor) -> Tensor:
        parts = [part.view(parameter.shape) for part, parameter in zip(vector.split(sizes), parameters, strict=True)]
        if peer.full_dataset:
            _, images = peer.dataloader_hv_product(parts)
        else:
            images = utilities.hessian_vector_product(peer.gradsH, peer.params, parts)
        return torch.cat([image.detach().reshape(-1) for image in images])

    return Function(product, sum(sizes), parameters[0].dtype, parameters[0].device)
