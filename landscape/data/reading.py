"""Examples out of whatever holds them: tensors, mappings, data sets, loaders."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, SequentialSampler, TensorDataset, default_collate

from landscape.compute.randomness import untouched_states
from landscape.data.examples import Examples, Tree, leaves, require_finite
from landscape.data.images import Images
from landscape.errors import LandscapeError, printable

Data = Images | Examples

# What targets are called in a mapping, in this order.
TARGETS = ("labels", "label", "targets", "target", "y")
# Examples of a data set that are read twice, to see whether they are drawn at random.
_REREAD = 16
_HOW = (
    "give Images, Examples, tensors (inputs, targets), a mapping of arrays, or a Dataset, DataLoader or list of such "
    "examples"
)


def as_examples(data: Any, *, name: str = "examples", split: str = "") -> Data:
    """Examples out of whatever holds them.

    Parameters
    ----------
    data
        `Images` or `Examples`: themselves. One tensor: inputs without targets. A pair (inputs, targets), either of them
        a tensor or array, or a tuple or mapping of such; targets may be None. A mapping of arrays, of which `TARGETS`
        are targets and the others are given to the network by name (one alone: by position); Hugging Face data sets are
        such mappings, and their columns that hold no numbers are left out. A ``Dataset`` of such examples, a list of
        them (one of two that can be (inputs, targets) is that), or a ``DataLoader``, which is read once, in its order.

        Pictures (N, C, H, W) with one class per picture become `Images`.
    name, split
        What they are, for results and messages.

    Raises
    ------
    LandscapeError
        For anything else; for examples that are not the same when they are read again, as those of a loader that
        shuffles or of a data set that draws augmentations; for numbers that are not finite.

    Examples
    --------
    >>> import torch
    >>> from landscape.data import as_examples
    >>> as_examples({"input_ids": torch.ones(4, 3).long(), "labels": torch.zeros(4, 3).long()})
    Examples(examples: inputs.input_ids (4, 3), targets (4, 3))
    """
    if isinstance(data, (Images, Examples)):
        return data
    inputs, targets = _apart(_read(data, name), name)
    return _recognised(Examples(inputs, targets, name=printable(name), split=split))


def _recognised(examples: Examples) -> Data:
    """Pictures with one class each as `Images`; the examples otherwise."""
    inputs, targets = examples.inputs, examples.targets
    if isinstance(inputs, dict) and len(inputs) == 1:
        (inputs,) = inputs.values()
    if isinstance(inputs, Tensor) and isinstance(targets, Tensor) and inputs.dim() == 4 and targets.dim() == 1:
        pictures = inputs.dtype == torch.uint8 or inputs.is_floating_point()
        if pictures and not targets.is_floating_point() and int(targets.min()) >= 0:
            return checked(inputs, targets.long(), examples.name, examples.split)
    return require_finite(examples)


def checked(images: Tensor, labels: Tensor, name: str, split: str = "") -> Images:
    """A user's own images, with as many classes as the largest label plus one; raises LandscapeError."""
    if images.is_floating_point() and not bool(images.isfinite().all()):
        first = int((~images.isfinite()).flatten(1).any(1).nonzero()[0])
        raise LandscapeError(f"{name}: image {first} has non-finite pixels: repair or remove it")
    classes = int(labels.max()) + 1 if len(labels) else 0
    return Images(images=images, labels=labels, classes=classes, name=printable(name), split=split)


def _apart(batch: Any, name: str) -> tuple[Tree, Tree | None]:
    """Inputs and targets of one batch of everything."""
    if isinstance(batch, Mapping):
        columns = {str(key): value for key, value in batch.items() if not _is_text(value)}
        target = next((key for key in TARGETS if key in columns), None)
        given = {key: _tree(value, f"{name}: {key}") for key, value in columns.items() if key != target}
        if not given:
            raise LandscapeError(f"{name} holds {', '.join(map(str, batch)) or 'nothing'} and no inputs: {_HOW}")
        return given, None if target is None else _target(columns[target], f"{name}: {target}")
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return _tree(batch[0], f"{name}: inputs"), _target(batch[1], f"{name}: targets")
    if isinstance(batch, (tuple, list)) and len(batch) > 2:
        return _tree(tuple(batch[:-1]), f"{name}: inputs"), _target(batch[-1], f"{name}: targets")
    if isinstance(batch, (Tensor, np.ndarray)):
        return _tree(batch, name), None
    if isinstance(batch, (tuple, list)) and len(batch) == 1:
        return _tree(batch[0], f"{name}: inputs"), None
    raise LandscapeError(f"{name} is a {type(batch).__name__}: {_HOW}")


def _is_text(column: Any) -> bool:
    """Whether a column of a table holds no numbers."""
    if isinstance(column, (list, tuple)) and column:
        return isinstance(column[0], (str, bytes)) or column[0] is None
    return isinstance(column, np.ndarray) and column.dtype.kind in "OSU"


def _target(value: Any, where: str) -> Tree | None:
    return None if value is None else _tree(value, where)


def _tree(value: Any, where: str) -> Tree:
    if isinstance(value, Mapping):
        return {str(key): _tree(part, f"{where}.{key}") for key, part in value.items()}
    if isinstance(value, tuple) or (isinstance(value, list) and any(isinstance(part, Tensor) for part in value)):
        return tuple(_tree(part, f"{where}[{place}]") for place, part in enumerate(value))
    return _tensor(value, where)


def _tensor(value: Any, where: str) -> Tensor:
    """An array or numbers as a tensor that shares memory where it can: a file that is mapped stays on disk."""
    if not isinstance(value, Tensor):
        try:
            array = np.asarray(value)
            if array.dtype.kind not in "biuf":
                raise ValueError(f"an array of {array.dtype.name}, not of numbers")
            array = array.astype(array.dtype.newbyteorder("="), copy=False)
            with warnings.catch_warnings():
                # Read-only arrays are fine: nothing here writes to examples.
                warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
                value = torch.from_numpy(
                    array if array.dtype.kind != "u" or array.itemsize == 1 else array.astype("i8")
                )
        except (ValueError, TypeError) as error:
            raise LandscapeError(f"{where} is not a tensor ({' '.join(str(error).split())[:120]}): {_HOW}") from None
    value = value.detach()
    if value.is_floating_point():
        return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
    # Embeddings and losses take whole numbers as int64; bytes may be pictures.
    return value if value.dtype in (torch.bool, torch.uint8) else value.long()


def _read(data: Any, name: str) -> Any:
    """One batch of everything that a data set or a loader yields; everything else as it is."""
    if isinstance(data, DataLoader):
        return _from_loader(data, name)
    if isinstance(data, TensorDataset):
        return data.tensors
    if hasattr(data, "column_names") and hasattr(data, "__getitem__"):  # Hugging Face's table
        return data[: len(data)]
    if isinstance(data, IterableDataset) or (isinstance(data, Dataset) and not hasattr(data, "__len__")):
        with untouched_states():
            items = list(iter(data))  # type: ignore[call-overload]
        return _collated(items, name)
    if isinstance(data, Dataset) or (
        hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, _HELD)
    ):
        with untouched_states():
            items = [data[index] for index in range(len(data))]  # type: ignore[arg-type]
            batch = _collated(items, name)
            # Several: what is mirrored with probability one half is the same twice as often as not.
            few = range(min(_REREAD, len(items)))
            _require_same(_collated([items[i] for i in few], name), _collated([data[i] for i in few], name), name)
        return batch
    if _is_listed(data):
        return _collated(data, name)
    return data


def _is_listed(data: Any) -> bool:
    """Whether a list holds examples one by one, and not the inputs and targets of all."""
    if not isinstance(data, list) or not data:
        return False
    kinds = {tuple(item) if isinstance(item, Mapping) else len(item) if _is_group(item) else None for item in data}
    if len(kinds) > 1 or kinds == {None}:
        return False
    lengths = set().union(*map(_lengths, data))
    return len(data) > 2 or len(lengths) > 1 or 0 in lengths


def _is_group(value: Any) -> bool:
    """Whether a value is several tensors, rather than the numbers of one."""
    arrays = (Tensor, np.ndarray)
    return isinstance(value, tuple) or (isinstance(value, list) and any(isinstance(part, arrays) for part in value))


def _lengths(value: Any) -> set[int]:
    """First dimensions of all tensors in there; 0 for a number."""
    if isinstance(value, Mapping) or _is_group(value):
        return set().union(*map(_lengths, value.values() if isinstance(value, Mapping) else value))
    return {len(value) if hasattr(value, "__len__") and getattr(value, "shape", None) != () else 0}


_HELD = (Tensor, np.ndarray, Mapping, tuple, list, str, bytes)


def _from_loader(loader: "DataLoader[Any]", name: str) -> Any:
    inner = getattr(loader.batch_sampler, "sampler", loader.sampler)
    if not isinstance(loader.dataset, IterableDataset) and not isinstance(inner, SequentialSampler):
        raise LandscapeError(
            f"{name}: the loader draws its order at random ({type(inner).__name__}), so that no number could be "
            "repeated: give a DataLoader with shuffle=False, or its Dataset"
        )
    source = loader.generator
    state = None if source is None else source.get_state()
    try:
        with untouched_states():
            batches = list(loader)
            if not batches:
                raise LandscapeError(f"{name}: the loader is empty: give at least one batch")
            _require_same(batches[0], next(iter(loader)), name)
    finally:
        if source is not None and state is not None:
            source.set_state(state)
    return _joined(batches, name)


def _require_same(first: Any, again: Any, name: str) -> None:
    """Raise LandscapeError when the first examples differ from themselves, read again."""
    pair = [[leaf for _, leaf in leaves(_tree(one, name))] for one in (first, again)]
    if any(not torch.equal(one.nan_to_num(), two.nan_to_num()) for one, two in zip(*pair, strict=True)):
        raise LandscapeError(
            f"{name}: the first examples differ when they are read again: random augmentation must be frozen first, "
            "for instance [dataset[i] for i in range(len(dataset))]"
        )


def _collated(items: Sequence[Any], name: str) -> Any:
    if not items:
        raise LandscapeError(f"{name} holds no examples: give at least one")
    try:
        return default_collate([_without_pictures(item) for item in items])
    except (RuntimeError, TypeError, KeyError) as error:
        reason = (str(error).splitlines() or [""])[0][:160]
        raise LandscapeError(
            f"{name}: its examples cannot be stacked ({reason}): bring them to one shape, for instance by padding"
        ) from None


def _without_pictures(item: Any) -> Any:
    """An example in which pictures of PIL are arrays (channels, height, width)."""
    if isinstance(item, Mapping):
        return {key: _without_pictures(value) for key, value in item.items()}
    if isinstance(item, (tuple, list)):
        return tuple(_without_pictures(value) for value in item)
    if type(item).__module__.startswith("PIL."):
        pixels = np.array(item)
        return torch.from_numpy(pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    if isinstance(item, np.ndarray) and item.dtype == np.uint8 and item.ndim in (2, 3):
        return torch.from_numpy(item[None] if item.ndim == 2 else np.ascontiguousarray(item.transpose(2, 0, 1)))
    return item


def _joined(batches: Sequence[Any], name: str) -> Any:
    first = batches[0]
    if isinstance(first, (Tensor, np.ndarray)):
        try:
            return torch.cat([_tensor(batch, name) for batch in batches])
        except RuntimeError:
            shapes = " and ".join(sorted({str(tuple(batch.shape[1:])) for batch in batches})[:2])
            raise LandscapeError(
                f"{name}: examples of different batches have shapes {shapes}: pad all of them to one length"
            ) from None
    if isinstance(first, Mapping):
        return {key: _joined([batch[key] for batch in batches], name) for key in first if not _is_text(first[key])}
    if isinstance(first, (tuple, list)):
        return tuple(_joined(parts, name) for parts in zip(*batches, strict=True))
    raise LandscapeError(f"{name}: the loader yields a {type(first).__name__}: {_HOW}")
