"""Two networks compared on the same images: paired differences block by block, with intervals."""

from collections.abc import Sequence

import numpy as np
import xarray

from landscape.errors import LandscapeError
from landscape.metrics import confidence


def stage_ends(result: xarray.Dataset) -> list[int]:
    """Index of the last block or smoothing layer of each stage, in order."""
    ends: dict[int, int] = {}
    for index, (stage, kind) in enumerate(zip(result["stage"].values, result["kind"].values, strict=True)):
        if kind != "subsampling":
            ends[int(stage)] = index
    return list(ends.values())


def compared_blocks(result: xarray.Dataset, other: xarray.Dataset) -> list[int]:
    """Index of the blocks where two networks are compared: where either ends a stage or has a smoothing layer behind.

    A network whose maps keep their size, as a vision transformer's do, is one stage wherever it is smoothed: the blocks
    of the same number are found in the one that is not. Networks of different depth are compared stage by stage.
    """
    blocks = np.flatnonzero(result["kind"].values == "block")
    numbers = _numbers_of_last(result)
    if len(blocks) == np.count_nonzero(other["kind"].values == "block"):
        numbers |= _numbers_of_last(other)
    return [int(blocks[number]) for number in sorted(numbers)]


def _numbers_of_last(result: xarray.Dataset) -> set[int]:
    """Number among the blocks of those that end a stage or have a smoothing layer behind them."""
    stages, kinds = result["stage"].values, result["kind"].values
    last: dict[int, int] = {}
    numbers: set[int] = set()
    block = -1
    for stage, kind in zip(stages, kinds, strict=True):
        if kind == "block":
            block += 1
            last[stage] = block
        elif kind == "smoothing" and stage in last:
            numbers.add(block)
    return numbers | set(last.values())


def behind(result: xarray.Dataset, blocks: Sequence[int]) -> list[int]:
    """Index of the last smoothing layer right behind each of these blocks; the block's own where there is none."""
    stages, kinds = result["stage"].values, result["kind"].values
    ends = []
    for index in blocks:
        end = index
        while end + 1 < len(kinds) and kinds[end + 1] == "smoothing" and stages[end + 1] == stages[index]:
            end += 1
        ends.append(end)
    return ends


def smoothed_upstream(result: xarray.Dataset) -> bool:
    """Whether a block has a smoothing layer somewhere before it, whose work its map may still carry."""
    kinds = [str(kind) for kind in result["kind"].values]
    return "smoothing" in kinds and "block" in kinds[kinds.index("smoothing") :]


def of_same_images(one: xarray.Dataset, other: xarray.Dataset) -> bool:
    """Whether nothing that both results say of their images differs."""
    both = one.attrs.keys() & other.attrs.keys() & {"data_sha256", "images_sha256"}
    return all(one.attrs[name] == other.attrs[name] for name in both) and np.array_equal(one["image"], other["image"])


def paired(
    baseline: xarray.Dataset, other: xarray.Dataset, variable: str, *, before_smoothing: bool = False
) -> xarray.Dataset:
    r"""Effect of `other` against `baseline` on a quantity of single images, at the `compared_blocks`.

    Parameters
    ----------
    baseline, other
        Results of one instrument on the same images, with `variable` over ``(point, image)``.
    variable
        For example ``model_std_of_image``.
    before_smoothing
        Read the blocks' own maps instead of those behind the smoothing layers that follow: a smoothing layer lowers
        variance and high frequencies of any map, which says nothing of what the network has learnt.

    Returns
    -------
    xarray.Dataset
        Over ``block`` (the names in `baseline`): ``difference`` (mean over images of other - baseline) with
        ``difference_stderr``; ``ratio`` of the two means with ``ratio_stderr`` (delta method, paired), not a number
        where the first is 0; ``effect_size``, the difference in standard deviations of the paired differences (Cohen's
        :math:`d_z`); ``interval`` of the difference and ``ratio_interval``, 95 % by
        `landscape.metrics.confidence.of_mean`. The intervals are over images, for these two networks; seeds are another
        source of variation.

    Raises
    ------
    LandscapeError
        When images differ, or the networks have no blocks that correspond.
    """
    if not of_same_images(baseline, other):
        raise LandscapeError("the two results are of different images: measure both networks on the same ones")
    pair = ((baseline, other), (other, baseline))
    blocks = [compared_blocks(result, against) for result, against in pair]
    if len(blocks[0]) != len(blocks[1]):
        raise LandscapeError(
            f"the networks have {len(blocks[0])} and {len(blocks[1])} stages: compare ones of equal stages"
        )
    places = (
        blocks if before_smoothing else [behind(result, own) for (result, _), own in zip(pair, blocks, strict=True)]
    )
    first, second = (result[variable].values[own] for (result, _), own in zip(pair, places, strict=True))
    images = first.shape[1]
    difference = second - first
    # Before the first dropout nothing varies over masks.
    base = first.mean(1)
    base[base == 0] = np.nan
    ratio = second.mean(1) / base
    influence = (second - ratio[:, None] * first) / base[:, None]
    spread = difference.std(1, ddof=1)
    effect_size = np.divide(difference.mean(1), spread, where=spread > 0, out=np.zeros(len(spread)))
    effect = xarray.Dataset(
        {
            "difference": ("block", difference.mean(1)),
            "difference_stderr": ("block", spread / np.sqrt(images)),
            "effect_size": ("block", effect_size),
            "ratio": ("block", ratio),
            "ratio_stderr": ("block", influence.std(1, ddof=1) / np.sqrt(images)),
        },
        coords={"block": baseline["point"].values[blocks[0]]},
        attrs={"variable": variable, "images": images},
    )
    for name, of_image in (("interval", difference), ("ratio_interval", ratio[:, None] + influence)):
        effect[name] = (("block", "bound"), np.stack(confidence.of_mean(of_image), axis=1))
    return effect


def ordered_union(names: Sequence[Sequence[str]]) -> list[str]:
    """All names, each once, in an order that keeps the order of every list."""
    union: list[str] = []
    for some in names:
        index = 0
        for name in some:
            if name in union:
                index = union.index(name) + 1
            else:
                union.insert(index, name)
                index += 1
    return union
