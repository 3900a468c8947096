"""PyHessian on our objective, for like-for-like comparison."""

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
    """The objective in the form that PyHessian takes: a module with parameters of its own, called with indices."""

    def __init__(self, objective: Objective, sample: int) -> None:
        super().__init__()
        self.objective, self.sample = objective, sample
        tensors = objective.space.split(objective.point.clone())
        self.values = nn.ParameterList([nn.Parameter(tensor.clone()) for tensor in tensors])

    def forward(self, indices: Tensor) -> Tensor:
        """Outputs of examples indices[0] to indices[-1]."""
        return self.objective.outputs(list(self.values), int(indices[0]), int(indices[-1]) + 1, sample=self.sample)

    def criterion(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The regularised loss of those examples."""
        return self.objective.loss(outputs, labels) + self.objective.l2(list(self.values)).to(outputs.dtype)


@measurement
def pyhessian_spectrum(
    objective: Objective,
    *,
    top: int = 5,
    only: Sequence[Part] = ("top", "trace"),
    sample: int = 0,
    seed: int = 0,
) -> xarray.Dataset:
    r"""Top eigenvalues and trace by PyHessian with its own defaults, of exactly the function that we measure.

    Same examples, weights, loss, L2 term, masks and batch-norm statistics; PyHessian differentiates our network with
    its batch norm folded, which is somewhat faster than the plain module, and not less accurate. All examples are one
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
        Of PyHessian's draws; the state of the global generator is restored.

    Returns
    -------
    xarray.Dataset
        ``eigenvalue`` (rank), in the order of PyHessian's power iteration (by magnitude), with ``residual``, the true
        one by our products; ``trace`` with ``trace_stderr`` from PyHessian's own samples.

    Raises
    ------
    LandscapeError
        When PyHessian is not installed, `only` has density, the loss is not a mean over examples, or the objective is
        sharded.

    References
    ----------
    Z. Yao et al., "PyHessian: Neural Networks Through the Lens of the Hessian", 2020 (arXiv 1912.07145).
    """
    module = _module(objective, only)
    network = _Network(objective, sample)
    operator = CurvatureOperator(objective, sample=sample)
    batches = _batches(operator)
    variables: dict[str, object] = {}
    coordinates: dict[str, object] = {}
    with _counted(module) as count, global_stream(objective.device, seed, "pyhessian"):
        cuda = objective.device.type == "cuda"
        peer = module.hessian(network, network.criterion, cuda=cuda, **batches)
        if "top" in only:
            values, vectors = peer.eigenvalues(top_n=top)
            # Residuals are computed with our products, which do not count as PyHessian's.
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
        # Parameters and the graphs of their gradients refer to each other, and would stay in memory.
        network.zero_grad(set_to_none=True)
    return xarray.Dataset(
        variables,
        coordinates,
        attrs=operator.attributes(solver="pyhessian", products=count[0]),
    )


def _module(objective: Objective, only: Sequence[Part]) -> Any:
    """PyHessian's module, unless it cannot measure this objective."""
    if "density" in only:
        raise LandscapeError(NO_DENSITY)
    if objective.loss.needs_network or len({objective.count(n, n + 1) for n in range(objective.images)}) > 1:
        raise LandscapeError(
            f"PyHessian takes means over examples, {objective.loss.name} is not one: use --solver lanczos"
        )
    if objective.sharded:
        raise LandscapeError("PyHessian runs on one process: start it without torchrun")
    try:
        importlib.import_module("pyhessian")
    except ImportError:
        raise LandscapeError("PyHessian is not installed: pip install pyhessian") from None
    # The package hides the module behind the class of the same name.
    return importlib.import_module("pyhessian.hessian")


def _batches(operator: CurvatureOperator) -> dict[str, Any]:
    """The examples as PyHessian takes them: one batch where the operator keeps all graphs, else its micro-batches."""
    objective, plan = operator.objective, operator.plan
    one = plan.kept == plan.micro_batches and (objective.protocol.batch_norm != "batch" or plan.micro_batches == 1)
    bounds = [(0, objective.images)] if one else objective.micro_batches()
    batches = [(torch.arange(start, stop), objective.labels(start, stop)) for start, stop in bounds]
    return {"data": batches[0]} if one else {"dataloader": batches}


@contextmanager
def _counted(module: Any) -> Iterator[list[int]]:
    """Count PyHessian's products, and silence torch's warning about its way of differentiating."""
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
    """PyHessian's numbers side by side, with what they are worth."""
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
