# %% [markdown]
# # A layer of your own
#
# What does a layer do where it stands? Here a blur, before every subsampling of a small ResNet with dropout.

# %%
import torch

import landscape


class MyBlur(torch.nn.AvgPool2d):
    """Any module that maps (N, C, H, W) to (N, C, H', W')."""

    def __init__(self):
        super().__init__(3, stride=1, padding=1, count_include_pad=False)


torch.manual_seed(0)
plain = landscape.build("resnet_mcdo_18", num_classes=10, width=4)
smoothed = landscape.smooth(plain, MyBlur)
digits = landscape.data.load("digits").subset(48, seed=0)

# %% [markdown]
# How much do feature maps vary over dropout masks? The blur lowers that right behind itself.

# %%
results = [
    landscape.feature_maps.measure(model, digits, passes=4).assign_attrs(name=name)
    for name, model in (("plain", plain), ("with MyBlur", smoothed))
]
landscape.feature_maps.picture.draw(results, "own_layer.png")

# %% [markdown]
# That alone is arithmetic. Whether a network *trained* with the layer is flatter, steadier and better is what the audit
# decides: it trains plain, variant and a placebo over seeds and tests the claims by a rule stated beforehand.
#
# ```
# python -m analyses.audit --variant my_layers.py:MyBlur
# ```
