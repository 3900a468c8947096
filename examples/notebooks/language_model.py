# %% [markdown]
# # A language model
#
# Two blocks of attention over characters. A loss names what it is a mean over: here, every next token.

# %%
import torch

import landscape

text = torch.tensor(list((landscape.__doc__ * 40).encode()), dtype=torch.long).clamp(max=127)
tokens = text[: len(text) // 24 * 24].reshape(-1, 24)[:24]


class Tiny(torch.nn.Module):
    """Embeddings, one layer of causal attention, a head."""

    def __init__(self, width=16):
        super().__init__()
        self.tokens, self.places = torch.nn.Embedding(128, width), torch.nn.Embedding(24, width)
        self.block = torch.nn.TransformerEncoderLayer(width, 2, 32, dropout=0.0, batch_first=True)
        self.head = torch.nn.Linear(width, 128)

    def forward(self, tokens):
        length = tokens.shape[1]
        mask = torch.full((length, length), -1e9).triu(1)
        features = self.tokens(tokens) + self.places(torch.arange(length))
        return self.head(self.block(features, src_mask=mask))


torch.manual_seed(0)
model = Tiny()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(40):
    optimizer.zero_grad()
    logits = model(tokens)
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    optimizer.step()

# %%
objective = landscape.Objective(model.eval(), (tokens, tokens), loss="causal_lm")
result = landscape.hessian.spectrum(objective, top=3, steps=20, probes=2, trace_products=10)
landscape.hessian.picture.draw([result.assign_attrs(name="two-head language model")], "language_model.png")
print(result["eigenvalue"].values)

# %% [markdown]
# Files of your own, adapters (LoRA) and padded batches: see *My own network, loss and data*. From the command line:
#
# ```
# python -m landscape.hessian --model examples/language_model.py:network --data examples/language_model.py:data \
#     --loss causal_lm --top 3
# ```
