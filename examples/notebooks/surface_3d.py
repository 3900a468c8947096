# %% [markdown]
# # A loss surface in 3D
#
# The plane through the weights that two filter-normalised random directions span.

# %%
import torch
from sklearn.datasets import load_digits

import landscape

digits = load_digits()
images = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)
labels = torch.tensor(digits.target)
torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Conv2d(1, 8, 3, 2, 1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(128, 10)
)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(80):
    batch = torch.randint(len(images), (128,))
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
    optimizer.step()

# %%
objective = landscape.Objective(model, (images[:200], labels[:200]))
surface = landscape.surface.plane(objective, points=11, seed=0).assign_attrs(name="my network")
landscape.surface.pictures.draw([surface], "surface_3d.png", view="3d")

# %% [markdown]
# The same to turn with mouse or keyboard, in a page that needs no network:

# %%
landscape.surface.html.write([surface], "surface.html")

# %% [markdown]
# In numbers, with their errors:

# %%
print(landscape.surface.table.table([surface]))
