"""The monitor: when to measure, on what, and what becomes of it."""

import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import xarray
from torch import Tensor, nn

from landscape.compute.randomness import derived_seed
from landscape.data import as_examples
from landscape.eigen import WarmStarts
from landscape.errors import LandscapeError
from landscape.monitor import optimizers, record
from landscape.monitor.measure import cold_products, measure
from landscape.monitor.mirror import Mirror, undisturbed
from landscape.objective import CurvatureOperator, Objective
from landscape.objective.losses import resolved
from landscape.store.protocol import Protocol

_log = logging.getLogger(__name__)


class Monitor:
    r"""Curvature of the loss while a network trains, in anybody's loop.

    The training gives the same bits as without the monitor: the network is only read, and measured as a private
    copy in evaluation mode, in full precision, without its hooks; global random states, modes, buffers, gradients and
    autocast are as before.

    Parameters
    ----------
    model
        The network in training, as it is or inside ``DataParallel``, ``DistributedDataParallel``, ``torch.compile``.
    examples
        The fixed examples that every measurement looks at (256 are a good number: see Notes), in any form that
        :func:`landscape.data.as_examples` reads. Inputs are as the network takes them.
    loss
        A name or a function, see :func:`landscape.objective.losses.resolved`.
    optimizer
        Read, never changed: learning rate, momentum, the preconditioner of Adam, AdamW, RMSprop and Adagrad, the radius
        of SAM-like wrappers (``rho`` in their parameter groups), and weight decay that is part of the loss.
    every
        Measure after every so many steps, where the budget allows.
    budget
        Largest fraction of the training time that measurements may take, the check at the start included. The cost of
        each is predicted, and it is postponed until the training so far pays for it: of a training that is too short
        for the budget nothing is measured, which is logged once, with what would help. None: no limit.
    products
        Hessian-vector products per extreme eigenvalue and measurement, after a first, cold solve. Each starts from the
        eigenvectors of the last one; 4 bring the largest within 2 % of a cold solve at most steps
        (``benchmarks/monitor.py``), and its bound tells at which it is not so.
    trace_products
        Hessian-vector products for the trace; 0 for no trace.
    log
        Where numbers go besides :meth:`dataset`: a path (CSV), an object with ``add_scalar`` (TensorBoard),
        ``log_metrics`` (Lightning's loggers) or ``log`` (W&B), or a list of these.
    prefix
        Of the names that loggers are given.
    protocol
        How the loss is to be read; default: :class:`~landscape.Protocol` with dropout off and running batch-norm
        statistics, those of the moment. ``Protocol(batch_norm="batch")`` measures with batch statistics, as in
        training.
    micro_batch, memory
        See :class:`~landscape.Objective`.
    seed
        Of random vectors.
    first_step
        Steps taken before this monitor was created, when a training is resumed. Rows of an existing CSV up to there are
        kept; a CSV of another training is overwritten.

    Attributes
    ----------
    steps
        Steps so far.
    rows
        One mapping of numbers per measurement; see :meth:`dataset` for what they are.

    Raises
    ------
    LandscapeError
        At once, when the network does not fit the examples or gives other outputs for the same ones.

    Notes
    -----
    *Cost.* A measurement takes a gradient, `products` Hessian-vector products for each of two or more extreme
    eigenvalues and `trace_products`, on all examples; a product costs 1.5 to 2.5 gradients. With 256 examples and
    training batches of 128 that is about 50 training steps, and up to 200 for the first one, a cold solve: 1 % of the
    training pays for a first one after some 20,000 steps and for another one every 5,000. In shorter trainings raise
    `budget` or take fewer examples. ``monitor.cost()`` and ``repr(monitor)`` state what it was, or will be.

    *Errors.* Bounds are of the numerical solve on these examples: an eigenvalue of the Hessian lies within
    ``largest_residual`` of ``largest_eigenvalue``. What other examples would give is another question, answered by
    ``python -m landscape.hessian`` with its sampling error.

    *Batch norm.* The default measures the network as it would be evaluated. The gradient in training is that of batch
    statistics, so that at the edge of stability of networks with batch norm, ``Protocol(batch_norm="batch")`` is the
    matrix that matters.

    Examples
    --------
    >>> import torch
    >>> from landscape import Monitor
    >>> inputs, targets = torch.randn(64, 3), torch.randn(64, 1)
    >>> model = torch.nn.Linear(3, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> monitor = Monitor(model, (inputs, targets), loss="mse", optimizer=optimizer, every=10, budget=None)
    >>> for _ in range(20):
    ...     optimizer.zero_grad()
    ...     torch.nn.functional.mse_loss(model(inputs), targets).backward()
    ...     optimizer.step()
    ...     _ = monitor.step()
    >>> monitor.dataset().step.values.tolist()
    [10, 20]
    """

    def __init__(
        self,
        model: nn.Module,
        examples: Any,
        loss: str | Callable[..., Any] = "cross_entropy",
        *,
        optimizer: Any = None,
        every: int = 100,
        budget: float | None = 0.01,
        products: int = 4,
        trace_products: int = 4,
        log: Any = None,
        prefix: str = "curvature/",
        protocol: Protocol | None = None,
        micro_batch: int | None = None,
        memory: int | None = None,
        seed: int = 0,
        first_step: int = 0,
    ) -> None:
        started = time.perf_counter()
        for name, value, least in (("every", every, 1), ("products", products, 1), ("first_step", first_step, 0)):
            if value < least:
                raise LandscapeError(f"monitor: {name} is {value}: give {least} or more")
        if trace_products and trace_products < 4:
            raise LandscapeError(f"monitor: trace_products is {trace_products}: give 4 or more, or 0 for no trace")
        if budget is not None and not budget > 0:
            raise LandscapeError(
                f"monitor: budget is {budget}: give a fraction of the training time, or None for no limit"
            )
        self.every, self.budget, self.products, self.trace_products = every, budget, products, trace_products
        self.steps = first_step
        self.rows: list[record.Row] = []
        # Read from the CSV of a training that is resumed.
        self._earlier = 0
        self._optimizer, self._seed, self._prefix = optimizer, seed, prefix
        self._settings = {"micro_batch": micro_batch, "memory": memory}
        self._mirror = Mirror(model)
        self._examples, self._loss = as_examples(examples), resolved(loss)
        tensors = [*self._mirror.network.parameters(), *self._mirror.network.buffers()]
        self._device = tensors[0].device if tensors else torch.device("cpu")
        self._protocol = (protocol or Protocol()).replace(device=self._device.type)
        self._warm = WarmStarts()
        self._tables: list[record.Table] = []
        self._loggers: list[Any] = []
        for sink in log if isinstance(log, (list, tuple)) else [] if log is None else [log]:
            self._add_sink(sink)
        self._skipped = 0
        self._spent = 0.0
        self._product_seconds = 0.0
        self._postponed = False
        # Building an objective now reports at once what does not fit.
        if self._finite():
            with undisturbed(self._device):
                objective = self._objective()
                if budget is not None:
                    self._product_seconds = CurvatureOperator(objective).predicted_seconds()
        self._setup = time.perf_counter() - started
        self._began = time.perf_counter()

    def _add_sink(self, sink: Any) -> None:
        if isinstance(sink, (str, Path)):
            path = Path(sink)
            if self.steps and path.is_file():
                self.rows = [row for row in record.read_table(path) if row["step"] <= self.steps]
                self._earlier = len(self.rows)
            self._tables.append(record.Table(path))
            self._tables[-1].write(self.rows)
        elif any(callable(getattr(sink, name, None)) for name in ("add_scalar", "log_metrics", "log")):
            self._loggers.append(sink)
        else:
            raise LandscapeError(
                f"log: a {type(sink).__name__} has no add_scalar, log_metrics or log: give a logger or a CSV path"
            )

    def step(self) -> record.Row | None:
        """Count a step of the optimizer, and measure if one is due; call it behind ``optimizer.step()``.

        Returns
        -------
        dict or None
            The numbers, by name, if this step was measured.
        """
        self.steps += 1
        if self.steps % self.every:
            return None
        if self._affordable():
            return self.measure()
        self._skipped += 1
        return None

    def measure(self) -> record.Row:
        """Measure now, whatever the budget says."""
        training = self._training_seconds()
        started = time.perf_counter()
        numbers: dict[str, float] = {}
        if self._finite():
            try:
                with undisturbed(self._device):
                    numbers = self._measured()
            except LandscapeError as error:
                # A training is worth more than a number about it.
                _log.warning("step %d could not be measured: %s", self.steps, error)
                self._warm = WarmStarts()
        else:
            # Once: a training that has diverged may continue for long.
            level = logging.DEBUG if self.rows and math.isnan(self.rows[-1]["loss"]) else logging.WARNING
            _log.log(level, "step %d: the weights are not finite", self.steps)
        if not numbers:
            numbers = dict.fromkeys(("loss", "gradient_norm", "largest_eigenvalue", "largest_residual"), math.nan)
        cost = time.perf_counter() - started
        row: record.Row = {"step": float(self.steps), **numbers, "cost_seconds": cost, "training_seconds": training}
        self.rows.append(row)
        for table in self._tables:
            table.write(self.rows)
        for logger in self._loggers:
            record.hand_over(logger, row, self._prefix)
        self._spent += time.perf_counter() - started
        return row

    def _measured(self) -> dict[str, float]:
        objective = self._objective()
        state = optimizers.read(
            self._optimizer,
            self._mirror.source,
            objective.names,
            objective.space.sizes,
            objective.device,
            objective.dtype,
        )
        return measure(
            objective,
            state,
            self._warm,
            products=self.products,
            trace_products=self.trace_products,
            seed=derived_seed(self._seed, "monitor", self.steps),
        )

    def _objective(self) -> Objective:
        """The loss at the current weights; rebuilt each time, since batch norm is folded into the copy it works on."""
        network = self._mirror.refresh()
        return Objective(
            network,
            self._examples,
            loss=self._loss,
            protocol=self._protocol,
            device=self._device,
            **self._settings,  # type: ignore[arg-type]
        )

    @torch.no_grad()
    def _finite(self) -> bool:
        # Not what is no part of a checkpoint, as masks of attention with -inf in them.
        tensors = [value for value in self._mirror.source.state_dict().values() if isinstance(value, Tensor)]
        return all(bool(tensor.isfinite().all()) for tensor in tensors if tensor.is_floating_point())

    def _training_seconds(self) -> float:
        return time.perf_counter() - self._began - self._spent

    def _expected(self) -> float:
        """Seconds that the next measurement will take."""
        here = [row["cost_seconds"] for row in self.rows[self._earlier :]]
        if here:
            # The first measurement is a cold solve: later ones say more about the next.
            return max(here[1:][-3:] or here)
        return self._product_seconds * cold_products(self._optimizer, self.trace_products)

    def _affordable(self) -> bool:
        if self.budget is None:
            return True
        needed = (self._setup + self._spent + self._expected()) / self.budget
        if needed <= self._training_seconds():
            return True
        if not self._spent and not self._postponed:
            self._postponed = True
            _log.warning(
                "a first measurement takes about %.2g s, which a budget of %.3g %% pays for after %.2g s of training: "
                "raise budget or take fewer examples if that is too late",
                self._expected(),
                100 * self.budget,
                needed,
            )
        return False

    def cost(self) -> dict[str, float]:
        """What the monitor has cost: seconds, their fraction of the training time, Hessian-vector products, and counts.

        ``seconds`` includes the check of network and examples at the start; ``skipped`` counts steps that
        were due and not measured, so as to stay within the budget.
        """
        training = self._training_seconds()
        seconds = self._setup + self._spent
        here = self.rows[self._earlier :]
        return {
            "seconds": seconds,
            "training_seconds": training,
            "share": seconds / training if training > 0 else math.inf,
            "products": sum(row.get("products", 0.0) for row in here),
            "measurements": float(len(here)),
            "skipped": float(self._skipped),
        }

    def __repr__(self) -> str:
        cost = self.cost()
        allowed = "no budget" if self.budget is None else f"budget {self.budget:.3g}"
        first = ""
        if self.budget is not None and not self._spent:
            first = f", the first after {(self._setup + self._expected()) / self.budget:.2g} s"
        return (
            f"Monitor({int(cost['measurements'])} measurements in {self.steps} steps, {int(cost['skipped'])} skipped; "
            f"{cost['seconds']:.2g} s = {100 * cost['share']:.2g} % of {cost['training_seconds']:.3g} s of training, "
            f"{allowed}{first})"
        )

    def dataset(self) -> xarray.Dataset:
        """Everything measured so far, over ``step``.

        Returns
        -------
        xarray.Dataset
            ``largest_eigenvalue`` with ``largest_residual`` (an eigenvalue lies within it), ``smallest_eigenvalue``
            (never below the smallest but for rounding) with ``smallest_residual``, ``trace`` with ``trace_stderr``,
            ``gradient_norm``, ``loss`` = ``data_loss`` + ``l2``; ``learning_rate``, ``two_over_learning_rate``,
            ``preconditioned_sharpness`` with ``preconditioned_residual`` and the ``stability_threshold`` to compare it
            with (Cohen et al. 2021, arXiv 2103.00065, and 2022, arXiv 2207.14484); for SAM-like optimizers
            ``perturbed_sharpness``, ``perturbed_rise``, ``sam_threshold``; ``products``, ``cost_seconds``,
            ``training_seconds``. Units are in their attributes; the attributes of the whole state cost and protocol.
        """
        attributes = {f"cost_{name}": value for name, value in self.cost().items()}
        protocol = self._protocol.replace(loss=self._loss.name)
        return record.dataset(
            self.rows,
            {
                **attributes,
                "every": self.every,
                "budget": math.inf if self.budget is None else self.budget,
                "examples": len(self._examples),
                "protocol": json.dumps(protocol.to_dict(), sort_keys=True),
                "protocol_hash": protocol.hash,
                "optimizer": type(self._optimizer).__name__,
            },
        )

    def draw(self, path: Path | str) -> Path:
        """Draw the curvature with its bounds beside the stability threshold, and loss and gradient norm below."""
        return record.draw(self.dataset(), path)
