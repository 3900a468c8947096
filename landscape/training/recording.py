"""A training step as one launch of a GPU."""

from collections.abc import Callable

import torch
from torch import nn

# Raw images, labels, where masks come from -> the batch's mean loss and the number right, once weights are updated.
Update = Callable[[torch.Tensor, torch.Tensor, torch.Generator], tuple[torch.Tensor, torch.Tensor]]


class Recording:
    """A step recorded once and replayed with other images, rate and masks: a CUDA graph.

    A step of a narrow network is bound by the launches of its some three hundred kernels, not by their arithmetic; this
    is one launch. The numbers are those of the steps that it stands for: masks come from a generator that is seeded
    before each replay. `difference` compares the two, once, before the first counts.

    Parameters
    ----------
    update
        The step.
    model, optimizer
        Whose step it is, some steps under way.
    raw, labels
        A batch, for its shape.
    """

    def __init__(
        self,
        update: Update,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        raw: torch.Tensor,
        labels: torch.Tensor,
    ) -> None:
        self._update, self._model, self._optimizer = update, model, optimizer
        self._raw, self._labels = raw.clone(), labels.clone()
        self._masks = torch.Generator(raw.device)
        for group in optimizer.param_groups:
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=raw.device)
        # Gradients are then made within the recording, and stay where it left them.
        optimizer.zero_grad(set_to_none=True)
        self._graph = torch.cuda.CUDAGraph()
        self._graph.register_generator_state(self._masks)
        with torch.cuda.graph(self._graph):
            self._found = update(self._raw, self._labels, self._masks)

    def __call__(self, raw: torch.Tensor, labels: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The step on a batch of that shape, with masks of that seed; what `update` gives, until the next call."""
        self._raw.copy_(raw)
        self._labels.copy_(labels)
        self._masks.manual_seed(seed)
        self._graph.replay()
        return self._found

    @torch.no_grad()
    def difference(self, seed: int = 0) -> float:
        """How far weights behind a replay are from those behind the step, in lengths of the step; neither counts."""
        model, kept = self._model, self._optimizer.state.values()
        state = [*model.parameters(), *model.buffers(), *(each for of in kept for each in of.values())]
        state = [each for each in state if isinstance(each, torch.Tensor)]
        before = [each.clone() for each in state]

        def behind(step: Callable[[], object]) -> torch.Tensor:
            with torch.enable_grad():
                step()
            weights = torch.cat([parameter.flatten() for parameter in model.parameters()])
            for each, value in zip(state, before, strict=True):
                each.copy_(value)
            return weights

        origin = torch.cat([parameter.flatten() for parameter in model.parameters()])
        masks = torch.Generator(self._raw.device).manual_seed(seed)
        stepped = behind(lambda: self._update(self._raw, self._labels, masks))
        replayed = behind(lambda: self(self._raw, self._labels, seed))
        return float((replayed - stepped).norm() / (stepped - origin).norm())
