"""A classifier of BERT's shape on sentences of different lengths: which of two marks comes first.

python -m landscape.hessian --model examples/padded_classifier.py:network \
        --data examples/padded_classifier.py:data --ggn-split
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from trained import trained

LENGTH = 10


class Classifier(nn.Module):
    """Transformer encoder whose first token is classified."""

    def __init__(self, width: int = 16, layers: int = 2) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(8, width), nn.Embedding(LENGTH, width)
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Class scores (N, 2)."""
        hidden = self.words(input_ids) + self.places.weight[: input_ids.shape[1]]
        return self.head(self.encoder(hidden, src_key_padding_mask=attention_mask == 0)[:, 0])


def network(steps: int = 100, width: int = 16, layers: int = 2) -> nn.Module:
    """A classifier trained on its data."""
    batch = data()
    labels = batch.pop("labels")
    return trained(
        lambda: Classifier(width, layers), lambda model: functional.cross_entropy(model(**batch), labels), steps
    )


# The user's own lines begin here.
def data(count: int = 200) -> dict[str, Tensor]:
    """Sentences of words 1 to 7, padded with 0; the label says whether a 1 comes before any 2."""
    words = torch.randint(1, 8, (count, LENGTH), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(LENGTH) < 3 + torch.arange(count)[:, None] % (LENGTH - 2)).long()
    ids = words * mask
    first = [(ids == word).long().argmax(1) + LENGTH * (~(ids == word).any(1)) for word in (1, 2)]
    return {"input_ids": ids, "attention_mask": mask, "labels": (first[0] < first[1]).long()}
