"""Pad, crop and flip on the tensor's own device, as a function of (seed, epoch, example) and of nothing else."""

import torch
from torch.nn import functional

from landscape.compute.randomness import generator


def draws(count: int, *, seed: int, epoch: int = 0, padding: int, flip: bool) -> torch.Tensor:
    """One augmentation an example: where its crop starts and whether it is mirrored.

    Parameters
    ----------
    count
        Number of examples of the whole set; a batch takes the rows of its examples, so that how examples are grouped
        into batches changes nothing.
    seed, epoch
        Name the stream of random numbers.
    padding
        Pixels of padding on each side; the offsets are uniform on {0, ..., 2 padding}.
    flip
        Mirror left-right with probability one half.

    Returns
    -------
    torch.Tensor
        (count, 3) int64 on the CPU: row offset, column offset, mirrored (0 or 1).
    """
    stream = generator(seed, "augmentation", epoch)
    offsets = torch.randint(0, 2 * padding + 1, (count, 2), generator=stream)
    mirrored = torch.randint(0, 2, (count, 1), generator=stream)
    return torch.cat([offsets, mirrored if flip else torch.zeros_like(mirrored)], dim=1)


def augment(images: torch.Tensor, drawn: torch.Tensor, *, padding: int) -> torch.Tensor:
    """Crops of the zero-padded images at the drawn offsets, mirrored where drawn.

    The padding is zero in the *raw* image, before any normalisation, as torchvision's ``RandomCrop`` before
    ``Normalize`` has it.

    Parameters
    ----------
    images
        (n, channels, height, width), any dtype.
    drawn
        (n, 3) rows of `draws`.
    padding
        The padding that the offsets were drawn for.

    Returns
    -------
    torch.Tensor
        Same shape, dtype and device as `images`.
    """
    height, width = images.shape[2:]
    drawn = drawn.to(images.device)
    padded = functional.pad(images, (padding,) * 4)
    # A view of every crop; indexing copies whole rows of the chosen one, which a gather by pixel would not.
    crops = padded.unfold(2, height, 1).unfold(3, width, 1)
    chosen = crops[torch.arange(len(images), device=images.device), :, drawn[:, 0], drawn[:, 1]]
    # An index by mask would make the host wait for a GPU to count.
    return torch.where(drawn[:, 2].bool()[:, None, None, None], chosen.flip(3), chosen)
