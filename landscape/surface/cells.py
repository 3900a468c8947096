"""One cell of a surface: everything that is measured at one point of weight space, in one pass over the images."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from landscape.metrics import MetricSet
from landscape.objective import Inference, Objective, Precision
from landscape.surface.directions import Directions

# Outputs of about so many images are gathered before metrics are taken of them: fewer, larger operations.
_CHUNK = 1024


class Cells:
    r"""Measures cells of a line or plane.

    Parameters
    ----------
    objective
        The function.
    directions
        The axes.
    passes
        Draws of the dropout masks per cell, under ``fresh`` masks. Loss is their mean; metrics are of the averaged
        prediction.
    precision
        See :class:`landscape.objective.Inference`.
    keep_losses
        Whether `measure` gives the losses of single examples too.
    """

    def __init__(
        self,
        objective: Objective,
        directions: Directions,
        *,
        passes: int = 1,
        precision: Precision = "full",
        keep_losses: bool = False,
    ) -> None:
        self.objective = objective
        self.directions = directions
        self.keep_losses = keep_losses
        self.fresh = objective.protocol.dropout == "fresh"
        self.passes = passes if self.fresh else 1
        self.inference = Inference(objective, precision=precision)
        self.classifies = objective.classifies

    def move_to(self, coordinates: Sequence[float], sample: int) -> Tensor:
        """Write the parameters of a cell and return them, flat (P,)."""
        point = self.directions.at(self.objective.point, coordinates)
        self.inference.write(point, sample=sample)
        return point

    @torch.no_grad()
    def measure(
        self,
        coordinates: Sequence[float],
        *,
        number: int,
        controls: Tensor,
        images: int | None = None,
    ) -> dict[str, np.ndarray]:
        r"""Sums and metrics of one cell.

        Parameters
        ----------
        coordinates
            Where.
        number
            Which cell: decides the masks under ``fresh``.
        controls
            Losses (n, c) of the first n examples at the c cells that all others are compared with, float64.
        images
            How many of the examples; all by default.

        Returns
        -------
        dict
            ``l2``; ``cross_entropy``, ``square`` and ``cube``, means of the examples' losses, squares and cubes;
            ``paired`` and ``paired_cube``, means of the squares and cubes of their differences from the first control
            (squares and cubes of all examples are of `Objective.linearized` ones);
            ``cross``, the means (c,) of their products with the controls; ``of_pass`` (passes,), the mean loss of each
            mask draw; with `keep_losses`, ``losses`` (n,) float32; every metric with its ``_stderr``.
        """
        count = images or self.objective.images
        point = self.move_to(coordinates, self._sample(number, 0))
        total = torch.zeros((), dtype=torch.float64, device=self.objective.device)
        of_pass = torch.zeros(self.passes, dtype=torch.float64, device=self.objective.device)
        metrics: MetricSet | None = None
        parts: list[Tensor] = []
        for ranges in self._chunks(count):
            first, last = ranges[0][0], ranges[-1][1]
            part, averaged = self._chunk(ranges, number, of_pass)
            parts.append(part)
            # Added up as `Objective.value` does, so that the origin is the plain evaluation to the last bit.
            for start, stop in ranges:
                total += part[start - first : stop - first].sum()
            if averaged is not None:
                if metrics is None:
                    metrics = MetricSet(averaged.shape[1], device=averaged.device)
                metrics.update(averaged, self.objective.labels(first, last))
        losses = torch.cat(parts)
        rises = losses - controls[:count, 0]
        values = losses
        if count == self.objective.images:
            values, rises = self.objective.linearized(losses), self.objective.linearized(rises)
        arrays: dict[str, np.ndarray] = {
            "l2": np.array(float(self.objective.l2(self.objective.space.split(point)))),
            "cross_entropy": (total / count).cpu().numpy(),
            "square": values.square().mean().cpu().numpy(),
            "paired": rises.square().mean().cpu().numpy(),
            "cube": values.pow(3).mean().cpu().numpy(),
            "paired_cube": rises.pow(3).mean().cpu().numpy(),
            "cross": (losses @ controls[:count] / count).cpu().numpy(),
            "of_pass": (of_pass / count).cpu().numpy(),
        }
        if self.keep_losses:
            arrays["losses"] = losses.float().cpu().numpy()
        return arrays | _metrics(metrics)

    @torch.no_grad()
    def losses(self, coordinates: Sequence[float], *, number: int, images: int | None = None) -> Tensor:
        """Losses (n,) of the single examples at a cell, mean over mask draws, float64."""
        self.move_to(coordinates, self._sample(number, 0))
        ignored = torch.zeros(self.passes, dtype=torch.float64, device=self.objective.device)
        chunks = self._chunks(images or self.objective.images)
        return torch.cat([self._chunk(ranges, number, ignored)[0] for ranges in chunks])

    def _chunk(self, ranges: list[tuple[int, int]], number: int, of_pass: Tensor) -> tuple[Tensor, Tensor | None]:
        """Losses (n,) and log-probabilities (n, K) of the averaged prediction; adds to the sums of each pass."""
        first, last = ranges[0][0], ranges[-1][1]
        labels = self.objective.labels(first, last) if self.classifies else None
        total: Tensor | None = None
        averaged: Tensor | None = None
        for draw in range(self.passes):
            sample = self._sample(number, draw)
            if self.classifies:
                outputs = self.inference.all_outputs(ranges, sample=sample)
                losses = self.objective.example_losses(outputs, labels)
            else:  # outputs may be large: maps, scores of a vocabulary
                losses = self.inference.losses(ranges, sample=sample)
            of_pass[draw] += losses.sum()
            total = losses if total is None else total + losses
            if self.classifies:
                logarithms = outputs.double().log_softmax(-1)
                averaged = logarithms if averaged is None else torch.logaddexp(averaged, logarithms)
        assert total is not None
        if self.passes > 1:
            total = total / self.passes
            averaged = None if averaged is None else averaged - math.log(self.passes)
        return total, averaged

    def _chunks(self, count: int) -> list[list[tuple[int, int]]]:
        ranges = self.inference.ranges(0, count)
        # Whole rounds of the cores.
        threads = torch.get_num_threads()
        together = threads * max(1, round(_CHUNK / (self.inference.micro_batch * threads)))
        return [ranges[start : start + together] for start in range(0, len(ranges), together)]

    def _sample(self, number: int, draw: int) -> int:
        return number * self.passes + draw if self.fresh else 0


def _metrics(metrics: MetricSet | None) -> dict[str, np.ndarray]:
    if metrics is None:
        return {}
    arrays: dict[str, np.ndarray] = {}
    for name, estimate in metrics.result().items():
        arrays |= {name: np.array(estimate.value), f"{name}_stderr": np.array(estimate.stderr)}
    return arrays
