"""What exactly was measured, as data: most quarrels about loss landscapes are quarrels about protocol."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from landscape.errors import LandscapeError

L2Reading = Literal["exact", "unsquared", "none"]
DropoutMode = Literal["off", "fixed", "fresh"]
BatchNormMode = Literal["running", "batch", "recalibrated"]
Augmentation = Literal["none", "frozen"]
Normalization = Literal["filter", "first_axis", "layer", "none"]
OneDimensional = Literal["zero", "random"]
Split = Literal["train", "test"]
DataType = Literal["float32", "float64"]
DeviceClass = Literal["cpu", "cuda"]

# Raise it when a value of a field comes to mean something else, so that results of both meanings are distinguished.
SCHEMA = 1
# Fields whose value always counts in the hash; fields added later count where they differ from their default.
_FIRST_SCHEMA = frozenset(
    [
        "l2",
        "parameters",
        "dropout",
        "mask_seed",
        "batch_norm",
        "augmentation",
        "augmentation_seed",
        "normalization",
        "one_dimensional",
        "split",
        "images",
        "subset_seed",
        "dtype",
        "device",
    ]
)

# Enough images for a spectrum whose sampling error is small against the differences people look for, few enough for a
# laptop; every number measured on a sample states its sampling error.
DEFAULT_IMAGES = 2000


@dataclass(frozen=True)
class Protocol:
    r"""Everything that decides what a number means, apart from the network and the data themselves.

    Attributes
    ----------
    l2
        Reading of the regularisation term of the loss: ``exact``, :math:`\tfrac{wd}{2}\lVert w\rVert^2`, what weight
        decay in SGD minimises; ``unsquared``, :math:`wd\sum_t\lVert w_t\rVert` over tensors *t*, what the plotting
        code of Park & Kim (ICLR 2022, arXiv 2202.06709) adds; ``none``.
    parameters
        Which parameters count as coordinates: ``all`` or ``trainable`` (those that require gradients), ``weights``
        (tensors of two or more dimensions: no biases, no normalisation parameters), ``lora`` (adapters of PEFT),
        ``last-layer``, or a glob pattern of names such as ``layer4.*``; several of these with commas.
    dropout
        ``off``: every dropout is the identity, the deterministic function of the weights. ``fixed``: one mask per
        example and layer, drawn from `mask_seed`, so that the loss stays a function of the weights. ``fresh``: new
        masks for every evaluation, as in training.
    mask_seed
        Seed of the masks.
    batch_norm
        ``running``: running statistics, as at test time. ``batch``: statistics of each batch, as in training.
        ``recalibrated``: running statistics measured anew on the examples for every point of weight space.
    augmentation
        ``none``, or ``frozen``: one random crop and flip per example, drawn from `augmentation_seed` and kept.
    augmentation_seed
        Seed of the augmentation.
    normalization
        Scale of random directions: ``filter``, each output filter as long as that filter of the weights (Li et al.
        2018, arXiv 1712.09913); ``first_axis``, the norm taken over the first axis instead (the code of Park & Kim);
        ``layer``, each tensor as long as that tensor of the weights; ``none``, Gaussian as drawn.
    one_dimensional
        Biases and normalisation parameters in random directions: ``zero`` (Li et al.) or ``random`` (normalised as
        one filter each).
    split
        ``train`` or ``test`` images.
    images
        Number of images, a seeded sample without replacement, or None for all of them.
    subset_seed
        Seed of the sample.
    dtype
        Floating-point type of parameters and images; sums over examples are float64 always.
    device
        Class of the device: results of different classes agree to rounding, not to bits, and masks may differ.
    image_mean, image_std
        What uint8 images are normalised by, a number per channel on the [0, 1] scale, where that is not the data's own
        normalisation; None for the data's own, and for a user's files no normalisation at all.
    loss
        What is averaged, parameters included (`landscape.objective.losses.resolved`); for a function of the user's own,
        its name with a digest of its source.
    output
        Which output of the network the loss is of, by name or index, or ``all``; None for the usual one
        (`landscape.objective.network.selected`).

    Examples
    --------
    >>> Protocol(dropout="fixed", images=512).hash == Protocol(dropout="fixed", images=512, split="train").hash
    True
    >>> preset("park2022").dropout
    'fresh'
    """

    l2: L2Reading = "exact"
    parameters: str = "all"
    dropout: DropoutMode = "off"
    mask_seed: int = 0
    batch_norm: BatchNormMode = "running"
    augmentation: Augmentation = "none"
    augmentation_seed: int = 0
    normalization: Normalization = "filter"
    one_dimensional: OneDimensional = "zero"
    split: Split = "train"
    images: int | None = None
    subset_seed: int = 0
    dtype: DataType = "float32"
    device: DeviceClass = "cpu"
    image_mean: tuple[float, ...] | None = None
    image_std: tuple[float, ...] | None = None
    loss: str = "cross_entropy"
    output: str | None = None

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise LandscapeError(f"protocol field {name} is {value!r}: choose one of {', '.join(choices)}")
        if self.images is not None and self.images < 1:
            raise LandscapeError(f"protocol field images is {self.images}: give a positive number, or None for all")
        for name in ("image_mean", "image_std"):
            value = getattr(self, name)
            if value is not None:  # JSON has lists alone
                object.__setattr__(self, name, tuple(float(number) for number in value))

    @property
    def hash(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of `identity`: equal hashes, equal protocols."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:12]

    def identity(self) -> dict[str, Any]:
        """What tells this protocol from others, JSON-ready: the basis of the hash and of every result's key.

        The fields of the first schema count always; fields added since count where they differ from their default,
        which stands for what was done before they existed. A new field therefore leaves the hash of every older
        result as it is. A change of what a *value* means is a new schema, whose number then counts as well.
        """
        fields = self.to_dict()
        counted = {
            field.name: fields[field.name]
            for field in dataclasses.fields(self)
            if field.name in _FIRST_SCHEMA or fields[field.name] != field.default
        }
        return counted if SCHEMA == 1 else counted | {"schema": SCHEMA}

    def to_dict(self) -> dict[str, Any]:
        """All fields as a JSON-ready dictionary; `from_dict` takes it back."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Protocol":
        """The protocol that `to_dict` wrote, by this version or an older one; raises LandscapeError for another."""
        unknown = sorted(set(fields) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise LandscapeError(
                f"unknown protocol field {ascii(unknown[0])[:60]}: the result is of a newer version; measure again"
            )
        try:
            return cls(**fields)
        except (TypeError, ValueError) as error:
            raise LandscapeError(f"not a protocol ({' '.join(str(error).split())[:200]}): measure again") from None

    def replace(self, **fields: Any) -> "Protocol":
        """A copy with some fields changed; raises LandscapeError for a value that is not allowed."""
        return dataclasses.replace(self, **fields)

    def difference(self, other: "Protocol") -> dict[str, tuple[Any, Any]]:
        """The fields in which two protocols differ, each with both values."""
        mine, theirs = self.to_dict(), other.to_dict()
        return {name: (mine[name], theirs[name]) for name in mine if mine[name] != theirs[name]}


CHOICES: dict[str, tuple[str, ...]] = {
    "l2": get_args(L2Reading),
    "dropout": get_args(DropoutMode),
    "batch_norm": get_args(BatchNormMode),
    "augmentation": get_args(Augmentation),
    "normalization": get_args(Normalization),
    "one_dimensional": get_args(OneDimensional),
    "split": get_args(Split),
    "dtype": get_args(DataType),
    "device": get_args(DeviceClass),
}

PRESETS: dict[str, Protocol] = {
    # A deterministic function of the weights, exactly the term that weight decay minimises.
    "exact": Protocol(),
    # As the authors' code does it: dropout drawn anew, augmented training images, norms along the first axis,
    # unsquared norms in the L2 term.
    "park2022": Protocol(l2="unsquared", dropout="fresh", augmentation="frozen", normalization="first_axis"),
    # As the released code of Li et al. does it: cross-entropy alone, biases and batch norm left where they are.
    "li2018": Protocol(l2="none", normalization="filter", one_dimensional="zero"),
}


def preset(name: str) -> Protocol:
    """The protocol of that name; raises LandscapeError for an unknown one."""
    if name not in PRESETS:
        raise LandscapeError(f"unknown protocol {name!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
