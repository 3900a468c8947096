# %% [markdown]
# # The spectrum of your checkpoint
#
# A small convolutional network, trained here in seconds on scikit-learn's digits, stands in for yours.

# %%
import torch
from sklearn.datasets import load_digits

import landscape

digits = load_digits()
images = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)
labels = torch.tensor(digits.target)
torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Conv2d(1, 8, 3, padding=1),
    torch.nn.ReLU(),
    torch.nn.MaxPool2d(2),
    torch.nn.Conv2d(8, 16, 3, padding=1),
    torch.nn.ReLU(),
    torch.nn.AdaptiveAvgPool2d(2),
    torch.nn.Flatten(),
    torch.nn.Linear(64, 10),
)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(60):
    batch = torch.randint(len(images), (128,))
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
    optimizer.step()

# %% [markdown]
# The loss as a function of all weights, on 256 images. The model is copied; yours is not changed.

# %%
objective = landscape.Objective(model, (images[:256], labels[:256]))
result = landscape.hessian.spectrum(objective, top=5, steps=30)
for value, residual in zip(result["eigenvalue"].values, result["residual"].values, strict=True):
    print(f"an eigenvalue lies within {residual:.1g} of {value:.4g}")
print(f"trace {float(result['trace']):.4g} +- {float(result['trace_stderr']):.2g}")

# %% [markdown]
# The whole spectrum: linear around zero, logarithmic beyond, so that bulk and both ends are readable.

# %%
landscape.hessian.picture.draw([result.assign_attrs(name="my network")], "spectrum.png")
