"""Accuracy under attack: FGSM and PGD within a maximum-norm ball, through the Monte-Carlo average."""

import dataclasses
import math
from collections.abc import Sequence

import torch
import xarray
from torch import Tensor, nn
from torch.nn import functional

from landscape import metrics
from landscape.compute.masks import BLOCK
from landscape.compute.randomness import generator
from landscape.compute.settings import measurement
from landscape.data import Images
from landscape.errors import LandscapeError
from landscape.objective.preparation import examples
from landscape.predictions import Predictor
from landscape.robustness import cells
from landscape.robustness.choices import ATTACKS, EPSILONS, AttackKind
from landscape.store.journal import Journal
from landscape.store.pieces import Arrays, joined, pieces
from landscape.store.protocol import Protocol

# Draws of masks numbered from here on are the attacker's: other ones than those that are attacked.
_ATTACK = 1_000_000


@dataclasses.dataclass(frozen=True)
class Attack:
    """One attack.

    Attributes
    ----------
    kind
        ``fgsm``: one step of length epsilon along the sign of the gradient (Goodfellow et al. 2015, arXiv 1412.6572).
        ``pgd``: several steps from a random start, projected onto the ball (Madry et al. 2018, arXiv 1706.06083).
    epsilon
        Radius of the ball in maximum norm, as a share of the pixels' range.
    steps
        Of PGD; each is 2.5 epsilon / steps long, enough to cross the ball, as Madry et al. advise.
    passes
        Mask draws that each gradient is averaged through, fresh in every step.
    """

    kind: AttackKind
    epsilon: float
    steps: int = 10
    passes: int = 5


@measurement
def input_gradient(predictor: Predictor, images: Tensor, labels: Tensor, first: int, samples: Sequence[int]) -> Tensor:
    r"""Gradient of the log-likelihood of a Monte-Carlo average in the images, up to a positive factor for each image.

    With the label's log-odds :math:`m_t = z_y - \log \sum_{c \neq y} e^{z_c}` of the scores *z* in draw *t*,
    :math:`\nabla \log \frac1T \sum_t p_t(y) \propto \sum_t p_t(y) (1 - p_t(y)) \nabla m_t`: one backward pass a draw,
    so that memory does not grow with *T*; the weights are kept relative to the largest so far, so that none underflows.
    (Of a confident network, the gradient of :math:`\log p` itself is lost in the rounding of *p* to 1, which makes
    attacks look weak.)

    Parameters
    ----------
    predictor
        The network.
    images
        (N, channels, height, width), as the network takes them.
    labels
        (N,).
    first
        Number of the first image, which decides its masks.
    samples
        Numbers of the mask draws.

    Returns
    -------
    Tensor
        Of the shape of `images`.
    """
    leaf = images.detach().requires_grad_()
    total = torch.zeros_like(images)
    highest = torch.full(labels.shape, -torch.inf, dtype=images.dtype, device=images.device)
    with predictor.masks() as masks, torch.enable_grad():
        for sample in samples:
            masks.address(first_example=first, sample=sample, examples=len(labels))
            scores, own = predictor.network(leaf), labels[:, None]
            odds = scores.gather(1, own)[:, 0] - scores.scatter(1, own, -torch.inf).logsumexp(1)
            (gradient,) = torch.autograd.grad(odds.sum(), leaf)
            weight = functional.logsigmoid(odds.detach()) + functional.logsigmoid(-odds.detach())
            level = torch.maximum(highest, weight)
            shape = [-1, *[1] * (images.dim() - 1)]
            total = total * (highest - level).exp().view(shape) + gradient * (weight - level).exp().view(shape)
            highest = level
    return total


@measurement
def attacked(
    predictor: Predictor,
    data: Images,
    attack: Attack,
    start: int,
    stop: int,
    *,
    within: tuple[float, float] | None = None,
    seed: int = 0,
) -> Tensor:
    """Adversarial images `start` to `stop`, as the network takes them.

    Parameters
    ----------
    predictor
        The network.
    data
        The images. uint8 pixels are attacked on the [0, 1] scale, before normalisation, floating-point ones as they
        are.
    attack
        What to do.
    start, stop
        Which images.
    within
        The pixels' range, which attacked ones do not leave; `pixel_range` of these images unless given.
    seed
        Of the random start.
    """
    low, high = within or pixel_range(data)
    raw = data.images[start:stop].to(device=predictor.device).to(predictor.dtype)
    if data.images.dtype == torch.uint8:
        raw = raw / 255
    labels = data.labels[start:stop].to(predictor.device)
    radius = attack.epsilon * (high - low)
    steps = attack.steps if attack.kind == "pgd" else 1
    length = radius if attack.kind == "fgsm" else 2.5 * radius / steps
    changed = raw
    if attack.kind == "pgd":
        # Image by image, so that it does not matter how they are grouped into batches.
        noise = torch.stack(
            [
                torch.rand(raw.shape[1:], generator=generator(seed, "attack", index), dtype=torch.float64)
                for index in range(start, stop)
            ]
        )
        changed = (raw + radius * (2 * noise - 1).to(raw)).clamp(low, high)
    for step in range(steps):
        samples = range(_ATTACK + step * attack.passes, _ATTACK + (step + 1) * attack.passes)
        samples = samples if predictor.stochastic else samples[:1]
        gradient = input_gradient(predictor, _normalized(changed, data), labels, start, samples)
        # Uphill in loss is downhill in likelihood; normalisation by positive numbers does not change the sign.
        changed = changed - length * gradient.sign()
        changed = torch.minimum(torch.maximum(changed, raw - radius), raw + radius).clamp(low, high)
    return _normalized(changed, data).contiguous(memory_format=torch.channels_last)


def pixel_range(data: Images) -> tuple[float, float]:
    """Smallest and largest value that pixels have before normalisation: 0 and 1 of uint8, else those of the set."""
    if data.images.dtype == torch.uint8:
        return 0.0, 1.0
    low, high = data.images.aminmax()
    return float(low), float(high)


def _normalized(raw: Tensor, data: Images) -> Tensor:
    for values, apply in ((data.mean, torch.sub), (data.std, torch.div)):
        if values is not None:
            raw = apply(raw, torch.tensor(values, dtype=raw.dtype, device=raw.device)[:, None, None])
    return raw


@measurement
def measure(
    model: nn.Module,
    data: Images,
    *,
    attacks: Sequence[Attack] | None = None,
    protocol: Protocol | None = None,
    passes: int = 50,
    batch: int | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    journal: Journal | None = None,
    quiet: bool = True,
) -> xarray.Dataset:
    """All metrics of the Monte-Carlo average on attacked images.

    Parameters
    ----------
    model, protocol, batch, device
        See `landscape.predictions.Predictor`.
    data
        Images; `protocol` says which of them.
    attacks
        FGSM and PGD at 1, 2, 4 and 8 / 255 unless given.
    passes
        Monte-Carlo passes that are averaged for the prediction, with other masks than the attacker's.
    seed
        Of random starts.
    journal
        Keeps finished pieces.
    quiet
        Show no progress bar.

    Returns
    -------
    xarray.Dataset
        Over ``attack`` (coordinates ``kind``, ``epsilon``), the clean images first (``none``, 0): what
        `landscape.robustness.cells.dataset` gives.

    Raises
    ------
    LandscapeError
        For an unknown attack or a negative radius, or as `Predictor`.
    """
    protocol = protocol or Protocol(dropout="fresh", split="test")
    usual = [Attack(kind, epsilon) for kind in ATTACKS for epsilon in EPSILONS]
    wanted = usual if attacks is None else list(dict.fromkeys(attacks))
    for attack in wanted:
        if attack.kind not in ATTACKS or not 0 <= attack.epsilon < math.inf or min(attack.steps, attack.passes) < 1:
            raise LandscapeError(f"bad attack {attack}: kind fgsm or pgd, epsilon >= 0, a step and a pass or more")
    chosen = examples(data, protocol)
    predictor = Predictor(model, chosen, protocol=protocol, batch=batch, device=device)
    # A radius must not depend on how many of the images are attacked.
    within = pixel_range(data)
    samples = range(passes if predictor.stochastic else 1)
    piece = 16 * BLOCK
    rows: list[Attack | None] = [None, *wanted]
    work = {
        f"{attempt} {start}": (row, start, min(start + piece, len(chosen)))
        for row, attempt in enumerate(rows)
        for start in range(0, len(chosen), piece)
    }

    def compute(key: str) -> Arrays:
        row, first, last = work[key]
        attempt = rows[row]
        averages = []
        for start, stop in predictor.batches(first, last):
            images = (
                predictor.images(chosen, start, stop)
                if attempt is None
                else attacked(predictor, chosen, attempt, start, stop, within=within, seed=seed)
            )
            averages.append(metrics.log_mean_exp(predictor.passes(images, start, samples)))
        return cells.predicted(torch.cat(averages), chosen.labels[first:last])

    whole = dict(pieces(list(work), compute, journal=journal, what="attacks", quiet=quiet))
    of_rows = [joined([whole[key] for key, (owner, _, _) in work.items() if owner == row]) for row in range(len(rows))]
    return (
        cells.dataset(of_rows, chosen.labels, predictor.classes, ["attack"], [len(rows)])
        .assign_coords(
            kind=("attack", ["none" if attack is None else attack.kind for attack in rows]),
            epsilon=("attack", [0.0 if attack is None else attack.epsilon for attack in rows]),
        )
        .assign_attrs(images=len(chosen), passes=len(samples), images_sha256=chosen.sha256)
    )
