"""An encoder and decoder of T5's shape that reverses sequences of digits of different lengths.

    python -m landscape.hessian --model examples/encoder_decoder.py:network --data examples/encoder_decoder.py:data \
        --loss masked_lm

Inputs have names, padding is masked in the encoder, and labels of -100 do not count.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from trained import trained

PADDING, START = 10, 11


class Reverser(nn.Module):
    """Transformer encoder and decoder over one embedding."""

    def __init__(self, width: int = 16, layers: int = 1) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(12, width), nn.Embedding(8, width)
        shape = {"d_model": width, "nhead": 2, "dim_feedforward": 2 * width, "batch_first": True, "dropout": 0.1}
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(**shape),
            layers,
            enable_nested_tensor=False,  # type: ignore[arg-type]
        )
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**shape), layers)  # type: ignore[arg-type]
        self.head = nn.Linear(width, 10)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        """Scores (N, L, 10) of the digits that come next."""
        places = self.places.weight[: input_ids.shape[1]]
        future = torch.ones(len(places), len(places), dtype=torch.bool, device=input_ids.device).triu(1)
        hidden = self.encoder(self.words(input_ids) + places, src_key_padding_mask=~attention_mask)
        return self.head(
            self.decoder(
                self.words(decoder_input_ids) + places,
                hidden,
                tgt_mask=future,
                memory_key_padding_mask=~attention_mask,
            )
        )


def network(steps: int = 200, width: int = 16) -> nn.Module:
    """A model trained on its data."""
    batch = data()
    labels = batch.pop("labels").flatten()
    return trained(
        lambda: Reverser(width), lambda model: functional.cross_entropy(model(**batch).flatten(0, 1), labels), steps
    )


# The user's own lines begin here.
def data(count: int = 64) -> dict[str, Tensor]:
    """Digits, padded behind; labels are those digits backwards, and the decoder is given what it should have said."""
    digits = torch.randint(10, (count, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(6) < 2 + torch.arange(count)[:, None] % 5
    labels = torch.stack([digits[n].where(mask[n], -100).roll(6 - int(mask[n].sum())).flip(0) for n in range(count)])
    given = labels.where(labels >= 0, PADDING).roll(1, 1).index_fill(1, torch.tensor([0]), START)
    inputs = {"input_ids": digits.where(mask, PADDING), "attention_mask": mask, "decoder_input_ids": given}
    return {**inputs, "labels": labels}
