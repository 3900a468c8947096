"""Low-rank adapters (LoRA) of a frozen language model: curvature in the adapters alone.

    python -m landscape.hessian --model examples/adapters.py:network --data examples/language_model.py:data \
        --loss causal_lm --parameters lora

Hu et al. 2021 (arXiv 2106.09685). With PEFT, `get_peft_model` takes the place of `adapted`: parameters have the same
names. Gradients and products exist for adapters alone; the base's weights are only read.
"""

import math

import language_model
import torch
from torch import Tensor, nn


class Adapted(nn.Module):
    """A linear layer plus a product of two thin matrices."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.randn(rank, base.in_features) / math.sqrt(base.in_features))
        # Zero at the beginning of a training; here as after some steps.
        self.lora_B = nn.Parameter(0.1 * torch.randn(base.out_features, rank))

    def forward(self, features: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        return self.base(features) + features @ self.lora_A.T @ self.lora_B.T


def adapted(model: nn.Module, rank: int = 2) -> nn.Module:
    """The model, frozen, with an adapter at every layer that mixes queries, keys and values."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for parent in list(model.requires_grad_(False).modules()):
            for name, layer in list(parent.named_children()):
                if name == "mix":
                    setattr(parent, name, Adapted(layer, rank))
    return model


# The user's own lines begin here.
def network(rank: int = 2, **sizes: int) -> nn.Module:
    """The language model of the other example, with adapters."""
    return adapted(language_model.network(**sizes), rank)
