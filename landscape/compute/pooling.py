"""Average pooling whose gradient is right on every device."""

from torch import Tensor
from torch.nn import functional


def avg_pool2d(
    input: Tensor,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """`torch.nn.functional.avg_pool2d`, past a kernel of torch's whose gradient is wrong without a word.

    On CUDA, in channels-last layout and with padding, torch takes each value's gradient from windows that lie a padding
    off (pytorch/pytorch#188344, mended in July 2026); the pooled values are right. The blur of Park & Kim is such a
    pooling: a smoothed network trains with wrong gradients, to a training loss five times as high as on a CPU, and its
    Hessian is another function's. So zeros that count are padded before, and where they do not count the map is made
    contiguous.

    Parameters
    ----------
    input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
        As torch's.
    """
    rows, columns = (padding, padding) if isinstance(padding, int) else (padding[0], padding[-1])
    if (rows or columns) and _affected(input):
        if count_include_pad and not ceil_mode:
            input, padding = functional.pad(input, (columns, columns, rows, rows)), 0
        else:
            input = input.contiguous()
    return functional.avg_pool2d(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def _affected(input: Tensor) -> bool:
    return input.is_cuda
