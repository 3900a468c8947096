"""scikit-learn's own 1,797 handwritten digits: real data that needs no download."""

import numpy as np
import sklearn.datasets
import torch
from torch.nn import functional

from landscape.compute.randomness import numpy_generator
from landscape.data.images import Images

SIZE = 16
TEST_SHARE = 0.2


def load_digits(split: str) -> Images:
    """Digits as (N, 3, 16, 16) uint8, 1,438 to train and 359 to test.

    The originals are 8x8 with 17 grey levels. They are enlarged bilinearly to 16x16, the smallest doubling at which
    the last stage of a ResNet (three subsamplings) still has maps of more than one pixel, without which spatial
    smoothing has nothing to smooth there; and repeated to the three channels that the networks take. Of each class a
    fixed random fifth is the test set, so one test image is 0.28 percentage points of accuracy. Writers are shared
    between the two parts, as in every random split of this set. Cropping shifts by up to 2 of the 16 pixels;
    there is no mirroring.

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, 1998, as packaged
    in ``sklearn.datasets.load_digits``.
    """
    raw = sklearn.datasets.load_digits()
    stream = numpy_generator(0, "digits", "split")
    is_test = np.zeros(len(raw.target), dtype=bool)
    for digit in range(10):
        members = stream.permutation(np.flatnonzero(raw.target == digit))
        is_test[members[: round(TEST_SHARE * len(members))]] = True
    chosen = is_test if split == "test" else ~is_test
    small = torch.from_numpy(raw.images).float()[:, None]
    large = functional.interpolate(small, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    pixels = (large * (255 / 16)).round().to(torch.uint8)
    mean, std = _statistics(pixels[torch.from_numpy(~is_test)])
    return Images(
        images=pixels[torch.from_numpy(chosen)].expand(-1, 3, -1, -1).contiguous(),
        labels=torch.from_numpy(raw.target[chosen]).long(),
        classes=10,
        name="digits",
        split=split,
        mean=(mean,) * 3,
        std=(std,) * 3,
        crop_padding=2,
        flip=False,
        population=int(chosen.sum()),
    )


def _statistics(pixels: torch.Tensor) -> tuple[float, float]:
    """Mean and standard deviation of the training pixels on the [0, 1] scale, rounded so that they print short."""
    scaled = pixels.double() / 255
    return round(float(scaled.mean()), 4), round(float(scaled.std()), 4)
