"""Extreme eigenpairs by any solver, judged alike."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from landscape.compute.randomness import global_stream
from landscape.compute.settings import measurement
from landscape.eigen.adapters import as_operator
from landscape.eigen.lanczos import Lanczos
from landscape.eigen.operator import Operator, Products, norm_of, random_direction
from landscape.eigen.pairs import FLOOR, Callback, Eigenpairs, Which, wanted
from landscape.errors import LandscapeError

# (operator, count, which, tolerance, seed, products) -> eigenvalues (k,) and unit eigenvectors (n, k).
Solver = Callable[[Operator, int, Which, float, int, Products], tuple[np.ndarray, Tensor]]


@measurement
def eigenpairs(
    operator: Any,
    count: int = 5,
    *,
    solver: str | Solver = "lanczos",
    which: Which = "LA",
    tolerance: float = 1e-4,
    seed: int = 0,
    max_products: int | None = None,
    callback: Callback | None = None,
    start: Tensor | None = None,
    near: Eigenpairs | None = None,
    basis_limit: int | None = None,
    deflate: Eigenpairs | None = None,
    smallest: float | None = None,
    keep_space: bool = False,
    confidence: float = 0.95,
) -> Eigenpairs:
    """Extreme eigenpairs A y = theta y, each with a guaranteed bound |lambda - theta| <= ||A y - theta y||.

    Parameters
    ----------
    operator
        Symmetric, see `Operator`; or somebody else's, see `as_operator`.
    count
        How many; fewer come back when the dimension is smaller.
    solver
        "lanczos", ours. "scipy", ARPACK's implicitly restarted Lanczos (`scipy.sparse.linalg.eigsh`), its tolerance
        being ours. "pyhessian", PyHessian's power iteration with deflation, for `which` "LM", its tolerance being the
        relative change of a value. Or a function (operator, count, which, tolerance, seed, products) -> (values,
        vectors) with ``products`` to multiply by, counted and checked. Whatever the solver claims, residuals, errors
        and convergence are measured here, by one more product per pair. Of what follows `max_products`, other solvers
        than ours take nothing.
    which
        "LA" the largest, "SA" the smallest, "LM" the largest in magnitude, "BE" both ends (half from each, the odd one
        from the top).
    tolerance
        Wanted relative error of every eigenvalue, measured by `Eigenpairs.errors`. The error is quadratic in the
        residual, so 1e-4 (well under what sampling the images costs) needs residuals of about 1e-2 only.
    start
        Starting vector (n,) or block (n, b), e.g. eigenvectors of a neighbouring problem; random by default.
    near
        Pairs of a neighbouring operator whose products are cheap (the curvature of a sample of the examples), found
        with `keep_space`: a start and a preconditioner, see `landscape.eigen.neighbour`. What is returned, residuals
        included, is measured with the operator itself. Their space is used up.
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
        For a product that is not finite, a start of the wrong shape, impossible settings, or a solver that is not
        installed, does not finish, or cannot do what is asked of it.

    References
    ----------
    Wu and Simon 2000 (thick restart); Ruhe 1979 (band Lanczos); Hochstenbach 2013 (the bound on missed copies).

    Examples
    --------
    >>> import torch
    >>> pairs = eigenpairs(torch.diag(torch.tensor([5.0, 3.0, 1.0, 0.5], dtype=torch.float64)), count=2)
    >>> [round(float(value), 6) for value in pairs.values]
    [5.0, 3.0]
    """
    operator = as_operator(operator)
    if count < 1:
        raise LandscapeError(f"eigenpairs: count is {count}; ask for at least 1")
    if which not in ("LA", "SA", "LM", "BE"):
        raise LandscapeError(f"eigenpairs: which is {which!r}; choose LA, SA, LM or BE")
    known = 0 if deflate is None else deflate.vectors.shape[1]
    count = min(count, operator.size - known)
    if count < 1:
        raise LandscapeError(f"eigenpairs: all {operator.size} dimensions are deflated already; deflate fewer pairs")
    budget = max_products if max_products is not None else max(300, 40 * count)
    if budget < 1:
        raise LandscapeError(f"eigenpairs: max_products is {budget}; allow at least 1")
    if solver == "lanczos":
        search = Lanczos(start, basis_limit, deflate, smallest, keep_space, confidence, near)
        return search(
            operator,
            count,
            which=which,
            tolerance=tolerance,
            seed=seed,
            max_products=budget,
            callback=callback,
        )
    ours = {"start": start, "near": near, "basis_limit": basis_limit, "deflate": deflate, "smallest": smallest}
    given = [name for name, value in ours.items() if value is not None] + ["keep_space"] * keep_space
    if given:
        raise LandscapeError(f"eigenpairs: {', '.join(given)} is for the solver lanczos alone; leave it out")
    if isinstance(solver, str):
        if solver not in SOLVERS:
            raise LandscapeError(f"eigenpairs: unknown solver {solver!r}; choose one of lanczos, {', '.join(SOLVERS)}")
        solver = SOLVERS[solver]
    products = _Limited(operator, budget, callback)
    values, vectors = solver(operator, count, which, tolerance, seed, products)
    return judged(products, values, vectors, which, tolerance)


class _Limited(Products):
    """Products up to a number."""

    def __init__(self, operator: Operator, budget: int, callback: Callback | None) -> None:
        nothing = np.zeros(0)
        super().__init__(operator, None if callback is None else lambda done: callback(done, nothing, nothing, None))
        self._budget = budget

    def __call__(self, vectors: Tensor) -> Tensor:
        """Return A v or A V; raise LandscapeError when they are used up."""
        if self.count >= self._budget:
            raise LandscapeError(f"eigenpairs: the solver has not finished in {self._budget} products; allow more")
        return super().__call__(vectors)

    def unlimited(self) -> None:
        """From here on as many as it takes."""
        self._budget = 2**63


def judged(products: Products, values: np.ndarray, vectors: Tensor, which: Which, tolerance: float) -> Eigenpairs:
    """Pairs of any origin, with their true residuals: one product each."""
    if isinstance(products, _Limited):
        products.unlimited()
    ascending = np.argsort(np.asarray(values, dtype=np.float64))
    values = np.asarray(values, dtype=np.float64)[ascending]
    columns = vectors[:, torch.from_numpy(ascending).to(vectors.device)].to(products.operator.dtype)
    columns = columns / torch.tensor([norm_of(column) for column in columns.T]).to(columns)
    epsilon = torch.finfo(columns.dtype).eps
    scale = float(np.abs(values).max(initial=0.0))
    rounding = (8 * epsilon + getattr(products.operator, "relative_rounding", 0.0)) * scale
    off = [norm_of(products(column) - value * column) for column, value in zip(columns.T, values, strict=True)]
    # Nothing sharper: a value need not be its vector's Rayleigh quotient, and what lies beside it is not known.
    residuals = np.array(off) + rounding
    chosen = wanted(values, len(values), which)
    goal = tolerance * np.maximum(np.abs(values), FLOOR * scale) + 2 * rounding
    return Eigenpairs(
        values=values[chosen],
        vectors=columns[:, torch.from_numpy(chosen.copy()).to(columns.device)],
        residuals=residuals[chosen],
        errors=residuals[chosen],
        converged=((residuals <= goal) & np.isfinite(residuals))[chosen],
        products=products.count,
        missed_probability=1.0,
        smallest=float(values[0]),
        smallest_residual=float(residuals[0]),
    )


def _by_scipy(
    operator: Operator, count: int, which: Which, tolerance: float, seed: int, products: Products
) -> tuple[np.ndarray, Tensor]:
    """ARPACK."""
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    size = operator.size
    if count >= size:
        raise LandscapeError(f"eigenpairs: SciPy finds fewer than all {size} pairs; use the solver lanczos")
    dtype = torch.empty(0, dtype=operator.dtype).numpy().dtype

    def product(vector: np.ndarray) -> np.ndarray:
        given = torch.from_numpy(np.ascontiguousarray(vector.reshape(-1))).to(operator.device, operator.dtype)
        return products(given).cpu().numpy()

    matrix = LinearOperator((size, size), matvec=product, dtype=dtype)
    start = random_direction(operator, seed, "eigsh").cpu().numpy()
    try:
        values, vectors = eigsh(matrix, count, which=which, v0=start, tol=tolerance)
    except ArpackNoConvergence as error:
        if not len(error.eigenvalues):
            raise LandscapeError("eigenpairs: SciPy's eigsh has not converged; give another tolerance") from None
        values, vectors = error.eigenvalues, error.eigenvectors
    return values, torch.from_numpy(np.ascontiguousarray(vectors)).to(operator.device)


def _by_pyhessian(
    operator: Operator, count: int, which: Which, tolerance: float, seed: int, products: Products
) -> tuple[np.ndarray, Tensor]:
    """PyHessian's own iteration, on products of ours."""
    if which != "LM":
        raise LandscapeError('eigenpairs: PyHessian finds the largest in magnitude; give which="LM"')
    try:
        importlib.import_module("pyhessian")
    except ImportError:
        raise LandscapeError("PyHessian is not installed: pip install pyhessian") from None
    # Its package hides the module behind the class of the same name.
    peer: Any = object.__new__(importlib.import_module("pyhessian.hessian").hessian)
    peer.model, peer.device, peer.full_dataset = nn.Module(), str(operator.device), True
    peer.params = [torch.empty(operator.size, dtype=operator.dtype, device=operator.device)]

    def product(vectors: list[Tensor]) -> tuple[float, list[Tensor]]:
        (vector,) = vectors
        image = products(vector.to(operator.dtype)).to(vector.dtype)
        return float(image @ vector), [image]

    peer.dataloader_hv_product = product
    with global_stream(operator.device, seed, "pyhessian"):
        values, vectors = peer.eigenvalues(tol=tolerance, top_n=count)
    return np.array(values), torch.stack([vector for (vector,) in vectors], dim=1)


SOLVERS: dict[str, Solver] = {"scipy": _by_scipy, "pyhessian": _by_pyhessian}
