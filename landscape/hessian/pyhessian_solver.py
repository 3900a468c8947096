"""PyHessian itself on our objective, for like-for-like comparison."""

import importlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import xarray
from torch import Tensor, nn

from landscape import tables
from landscape.compute.randomness import global_stream
from landscape.compute.settings import measurement
from landscape.errors import LandscapeError
from landscape.hessian.spectrum import Part
from landscape.objective import CurvatureOperator, Objective

NO_DENSITY = (
    "PyHessian 0.1's density() calls torch.eig, which torch has removed: use --only top --only trace, "
    "or leave out --solver pyhessian"
)


class _Network(nn.Module):
    """The objective as PyHessian wants it: a module with parameters of its own, called with example numbers."""

    def __init__(self, objective: Objective, sample: int) -> None:
        super().__init__()
        self.objective, self.sample = objective, sample
        tensors = objective.space.split(objective.point.clone())
        self.values = nn.ParameterList([nn.Parameter(tensor.clone()) for tensor in tensors])

    def forward(self, places: Tensor) -> Tensor:
        """Outputs of examples places[0] to places[-1]."""
        return self.objective.outputs(list(self.values), int(places[0]), int(places[-1]) + 1, sample=self.sample)


@measurement
def pyhessian_spectrum(
    objective: Objective,
    *,
    top: int = 5,
    only: Sequence[Part] = ("top", "trace"),
    sample: int = 0,
    seed: int = 0,
) -> xarray.Dataset:
    r"""Top eigenvalues and trace by PyHessian with its own defaults, on exactly the function that we measure.

    Same examples, weights, loss, L2 term, masks and batch-norm reading; PyHessian differentiates our network, its batch
    norm folded, which makes it somewhat faster than on the plain module, and not less accurate. All examples are one
    batch when their graphs fit into memory (PyHessian's fastest way), and a loader of micro-batches otherwise.

    Parameters
    ----------
    objective
        The function; on one process.
    top
        Number of eigenvalues.
    only
        ``top`` and ``trace``; density is refused.
    sample
        Which draw of the dropout masks, held.
    seed
        What its draws come from; the global generator is as before afterwards.

    Returns
    -------
    xarray.Dataset
        ``eigenvalue`` (rank), in the order in which power iteration found them (by magnitude), with ``residual``, the
        true one by our products; ``trace`` with ``trace_stderr`` from PyHessian's own samples.

    Raises
    ------
    LandscapeError
        When PyHessian is not installed, density is wanted, or the objective is sharded.

    References
    ----------
    Z. Yao et al., "PyHessian: Neural Networks Through the Lens of the Hessian", 2020 (arXiv 1912.07145).
    """
    if "density" in only:
        raise LandscapeError(NO_DENSITY)
    if objective.loss.needs_network or len({objective.count(n, n + 1) for n in range(objective.images)}) > 1:
        raise LandscapeError(
            f"PyHessian takes means over examples, {objective.loss.name} is none: use --solver lanczos"
        )
    if objective.sharded:
        raise LandscapeError("PyHessian runs on one process: start it without torchrun")
    try:
        importlib.import_module("pyhessian")
    except ImportError:
        raise LandscapeError("PyHessian is not installed: pip install pyhessian") from None
    # Its package hides the module behind the class of the same name.
    module: Any = importlib.import_module("pyhessian.hessian")
    network = _Network(objective, sample)

    def criterion(outputs: Tensor, labels: Tensor) -> Tensor:
        return objective.loss(outputs, labels) + objective.l2(list(network.values)).to(outputs.dtype)

    operator = CurvatureOperator(objective, sample=sample)
    plan = operator.plan
    whole = plan.kept == plan.micro_batches and (objective.protocol.batch_norm != "batch" or plan.micro_batches == 1)
    batches = [
        (torch.arange(start, stop), objective.labels(start, stop))
        for start, stop in ([(0, objective.images)] if whole else objective.micro_batches())
    ]
    subject = {"data": batches[0]} if whole else {"dataloader": batches}
    variables: dict[str, object] = {}
    coordinates: dict[str, object] = {}
    with _counted(module) as count, global_stream(objective.device, seed, "pyhessian"):
        peer = module.hessian(network, criterion, cuda=objective.device.type == "cuda", **subject)
        if "top" in only:
            values, vectors = peer.eigenvalues(top_n=top)
            # Residuals are measured on our side, and are not charged to PyHessian.
            columns = torch.stack([objective.space.flatten(vector) for vector in vectors], dim=1).detach()
            columns = (columns / columns.norm(dim=0)).to(objective.dtype)
            residuals = (operator(columns) - columns * columns.new_tensor(values)).norm(dim=0)
            coordinates["rank"] = np.arange(1, top + 1)
            variables |= {
                "eigenvalue": ("rank", np.array(values, dtype=np.float64)),
                "residual": ("rank", residuals.double().cpu().numpy()),
            }
        if "trace" in only:
            samples = np.array(peer.trace(), dtype=np.float64)
            variables |= {
                "trace": ((), float(samples.mean())),
                "trace_stderr": ((), float(samples.std(ddof=1) / np.sqrt(len(samples)))),
            }
        # Parameters and the graphs of their gradients hold each other in memory.
        network.zero_grad(set_to_none=True)
    return xarray.Dataset(
        variables,
        coordinates,
        attrs={
            "operator": "hessian",
            "solver": "pyhessian",
            "products": count[0],
            "parameters": objective.size,
            "images": objective.images,
        },
    )


@contextmanager
def _counted(module: Any) -> Iterator[list[int]]:
    """Counts PyHessian's products, and keeps quiet about its way of differentiating."""
    count = [0]
    single, loader = module.hessian_vector_product, module.hessian.dataloader_hv_product

    def counted(product: Any) -> Any:
        def call(*arguments: Any) -> Any:
            count[0] += 1
            return product(*arguments)

        return call

    module.hessian_vector_product = counted(single)
    module.hessian.dataloader_hv_product = counted(loader)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Using backward.. with create_graph=True")
            yield count
    finally:
        module.hessian_vector_product = single
        module.hessian.dataloader_hv_product = loader


def table(results: Sequence[xarray.Dataset]) -> str:
    """Its numbers side by side, with what they are worth."""
    rows: list[tables.Row] = []
    if all("eigenvalue" in result for result in results):
        rows += tables.by_rank(results, "eigenvalue", tables.value("eigenvalue", error="residual"))
    if all("trace" in result for result in results):
        rows.append(("trace", tables.value("trace", error="trace_stderr")))
    rows.append(("products", tables.attribute("products")))
    if all("seconds" in result.attrs for result in results):
        rows.append(("seconds", tables.attribute("seconds", ".1f")))
    notes = [
        "by PyHessian with its defaults; ± of eigenvalues is the true residual, by our products.",
        "no density: PyHessian 0.1's density() calls torch.eig, which torch has removed.",
    ]
    return tables.side_by_side(results, rows, notes)
