# %% [markdown]
# # Sharpness along a training
#
# Above the threshold 2 / learning rate gradient descent is unstable. The monitor measures the largest eigenvalue beside
# it while the training runs, to the same bits as without it.
#
# Here, cross-entropy on digits that the network can fit, sharpness stays below the threshold and falls with the loss.
# With squared error it rises to the threshold and hovers there (Cohen et al. 2021): `examples/edge_of_stability.py`.

# %%
import torch
from sklearn.datasets import load_digits

from landscape import Monitor

digits = load_digits()
inputs = torch.tensor(digits.data[:200] / 16, dtype=torch.float32)
targets = torch.tensor(digits.target[:200])
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 24), torch.nn.Tanh(), torch.nn.Linear(24, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.8)

# %%
monitor = Monitor(model, (inputs, targets), loss="cross_entropy", optimizer=optimizer, every=20, budget=None)
for _ in range(400):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(inputs), targets).backward()
    optimizer.step()
    monitor.step()

# %%
monitor.draw("sharpness.png")
result = monitor.dataset()
print(result[["largest_eigenvalue", "stability_threshold"]].isel(step=[0, -1]).to_dataframe())
