"""A graph network on padded adjacency matrices: how many triangles a graph has.

python -m landscape.hessian --model examples/graph_network.py:network --data examples/graph_network.py:data \
        --loss mse
"""

import torch
from torch import Tensor, nn
from trained import trained


class GraphNetwork(nn.Module):
    """Sums over neighbours, then over nodes; padding has no neighbours and is no node."""

    def __init__(self, width: int = 16, rounds: int = 2) -> None:
        super().__init__()
        self.start = nn.Linear(1, width)
        self.rounds = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(rounds))
        self.head = nn.Linear(width, 1)

    def forward(self, adjacency: Tensor, nodes: Tensor) -> Tensor:
        """(N, 1), from adjacency matrices (N, M, M) and which nodes there are (N, M)."""
        hidden = self.start(adjacency.sum(-1, keepdim=True))
        for layer in self.rounds:
            hidden = torch.tanh(layer(torch.cat([hidden, adjacency @ hidden], dim=-1)))
        return self.head((hidden * nodes[..., None]).sum(1))


def network(steps: int = 300, width: int = 16) -> nn.Module:
    """A network trained on its data."""
    batch = data()
    wanted = batch.pop("targets")
    return trained(lambda: GraphNetwork(width), lambda model: (model(**batch)[:, 0] - wanted).square().mean(), steps)


# The user's own lines begin here.
def data(count: int = 100, most: int = 8) -> dict[str, Tensor]:
    """Random graphs of 4 to `most` nodes; a triangle is counted six times in the trace of the cube."""
    nodes = (torch.arange(most) < 4 + torch.arange(count)[:, None] % (most - 3)).float()
    edges = torch.rand(count, most, most, generator=torch.Generator().manual_seed(0)).triu(1) > 0.6
    adjacency = (edges | edges.mT).float() * nodes[:, :, None] * nodes[:, None]
    triangles = (adjacency @ adjacency @ adjacency).diagonal(dim1=1, dim2=2).sum(1) / 6
    return {"adjacency": adjacency, "nodes": nodes, "targets": triangles}
