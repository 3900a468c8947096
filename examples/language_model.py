"""A causal language model of GPT-2's shape, trained a little on the source code of Python's standard library.

    python -m landscape.hessian --model examples/language_model.py:network --data examples/language_model.py:data \
        --loss causal_lm --top 3

Characters are the vocabulary; `data` are the last pages, which were not trained on.
"""

import inspect
import json.decoder
import random

import torch
from torch import Tensor, nn
from torch.nn import functional
from trained import trained

LENGTH = 64


class GPT(nn.Module):
    """Token and position embeddings, blocks of attention and a two-layer network, a head tied to the embedding."""

    def __init__(
        self, width: int = 32, heads: int = 4, layers: int = 2, vocabulary: int = 128, dropout: float = 0.05
    ) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(LENGTH, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight
        nn.init.normal_(self.tokens.weight, std=0.1)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Scores (N, L, vocabulary) of the token behind each of (N, L)."""
        hidden = self.tokens(input_ids) + self.places.weight[: input_ids.shape[1]]
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.norm(hidden))


class Block(nn.Module):
    """Causal attention and a two-layer network, each behind a layer norm, with shortcuts."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, nn.Dropout(dropout)
        self.before, self.mix, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """(N, L, width) to the same."""
        mixed = self.mix(self.before(hidden)).unflatten(-1, (3, self.heads, -1))
        query, key, value = mixed.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.dropout(self.out(seen.transpose(1, 2).flatten(2)))
        return hidden + self.dropout(self.mlp(hidden))


def text() -> Tensor:
    """Sources of the standard library as characters (pages, LENGTH), others than ASCII left out."""
    source = inspect.getsource(json.decoder) + inspect.getsource(random)
    codes = torch.tensor([ord(character) for character in source if ord(character) < 128])
    return codes[: len(codes) // LENGTH * LENGTH].view(-1, LENGTH)


def network(steps: int = 300, **sizes: int) -> nn.Module:
    """A model trained on the first pages."""
    pages = text()[:-100]

    def loss(model: nn.Module) -> Tensor:
        batch = pages[torch.randint(len(pages), (16,))]
        return functional.cross_entropy(model(batch)[:, :-1].flatten(0, 1), batch[:, 1:].flatten())

    return trained(lambda: GPT(**sizes), loss, steps, rate=0.01)


# The user's own lines begin here.
def data(pages: int = 100) -> tuple[Tensor, Tensor]:
    """Pages, and as labels the same pages: the loss shifts them."""
    last = text()[-pages:]
    return last, last
