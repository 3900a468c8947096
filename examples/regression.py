"""A regression on scikit-learn's diabetes data, trained a little.

python -m landscape.hessian --model examples/regression.py:network --data examples/regression.py:data --loss mse
"""

import torch
from sklearn.datasets import load_diabetes
from torch import Tensor, nn
from trained import trained


def network(steps: int = 300, width: int = 32) -> nn.Module:
    """Two layers, trained on all patients."""
    inputs, targets = data()
    return trained(
        lambda: nn.Sequential(nn.Linear(10, width), nn.Tanh(), nn.Linear(width, 1)),
        lambda model: nn.functional.mse_loss(model(inputs)[:, 0], targets),
        steps,
    )


# The user's own lines begin here.
def data() -> tuple[Tensor, Tensor]:
    """Ten numbers per patient (442, 10), standardised, and the progression of the disease a year later (442,)."""
    inputs, targets = (torch.from_numpy(part).float() for part in load_diabetes(return_X_y=True))
    return inputs / inputs.std(0), (targets - targets.mean()) / targets.std()
