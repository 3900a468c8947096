r"""Losses with a definition of one term, so that means over batches of any size, and over processes, are over terms.

.. math:: L = \frac1T \sum_{t=1}^T \ell_t

Terms are images, tokens that are not ignored, pixels, points; every micro-batch adds its mean times its fraction of the
*T* terms.
"""

import functools
import hashlib
import inspect
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from landscape.data.examples import Tree, content, mapped
from landscape.errors import LandscapeError, printable
from landscape.objective.chunked import Deferred
from landscape.store.importing import code_sha256, named_object

# torch's own convention: targets of this value do not count.
IGNORED = -100
# Relative difference of two orders of summation in float32, with room.
_ROUNDING = 1e-4
_OTHERS = "choose another --loss (cross_entropy, causal_lm, masked_lm, mse, bce, model, FILE.py:FUNCTION)"
_RETURNS = "return the mean over examples, the loss of every example (n,), or a pair (sum, number of terms)"


class Loss:
    """A mean over terms; see `resolved` for the choices.

    Attributes
    ----------
    name
        Its name in the protocol, including parameters.
    unit
        Of its value.
    needs_network
        Whether it runs the network itself: for derivatives in the inputs, or because the network computes its loss.
    no_gauss_newton, no_fisher
        The reason why there is no such matrix; empty where there is one.
    """

    name: str
    unit: str = "1"
    needs_network: bool = False
    no_gauss_newton: str = ""
    no_fisher: str = ""

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        """The mean over the terms of a batch."""
        raise NotImplementedError

    def sums(self, outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
        """Sum and number of the terms of every example, (n,) float64 each, without gradients."""
        raise NotImplementedError

    def counts(self, targets: Any, examples: int) -> Tensor | None:
        """Number of terms of every example (n,); None where it is known only from evaluating the loss."""
        return torch.ones(examples, dtype=torch.float64)

    def rows(self, outputs: Any, targets: Any) -> tuple[Tensor, Tensor] | None:
        """Scores (T, K) and classes (T,) of the terms, for losses that classify; None for others."""
        return None

    def term_sums(self, products: Tensor) -> Tensor:
        """Entrywise products in the outputs' shape, summed within each term, in a shape that broadcasts to it."""
        return products.flatten(1).sum(1).view([-1] + [1] * (products.dim() - 1))

    def require(self, outputs: Any, targets: Any, title: str) -> None:
        """Raise LandscapeError when the targets of all examples do not match these outputs of a few."""


@dataclass
class Classification(Loss):
    """Cross-entropy of scores against classes; without `dimension` -1, also against probabilities of all classes.

    Attributes
    ----------
    dimension
        Of the classes: 1, as torch has it, or -1, for tokens.
    shifted
        Whether the scores at one position are for the target at the next.
    ignored, smoothing
        ``ignore_index`` and ``label_smoothing`` of `torch.nn.functional.cross_entropy`.
    """

    name: str
    dimension: int = 1
    shifted: bool = False
    ignored: int = IGNORED
    smoothing: float = 0.0
    unit: str = "nats"

    @property
    def term(self) -> str:
        """What a term is, where examples have several."""
        return "token" if self.dimension == -1 else "pixel"

    def aligned(self, outputs: Any, targets: Tensor) -> tuple[Any, Tensor]:
        """Scores with their classes in dimension 1, and the targets that belong to them."""
        if self.shifted:
            outputs, targets = outputs[:, :-1], targets[:, 1:]
        if self.dimension == -1 and not isinstance(outputs, Deferred):
            outputs = outputs.movedim(-1, 1)
        return outputs, targets

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        """The mean over the terms of a batch."""
        scores, classes = self.aligned(outputs, targets)
        if isinstance(scores, Deferred):
            count = int((classes != self.ignored).sum())
            return scores.cross_entropy(classes, ignored=self.ignored, smoothing=self.smoothing) / max(count, 1)
        return functional.cross_entropy(scores, classes, ignore_index=self.ignored, label_smoothing=self.smoothing)

    def sums(self, outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
        """Sum and number of the terms of every example, (n,) float64 each, from outputs of any precision."""
        scores, classes = self.aligned(outputs, targets)
        if isinstance(scores, Deferred):
            losses = scores.losses(classes, ignored=self.ignored, smoothing=self.smoothing)
        else:
            known = classes.double() if classes.is_floating_point() else classes
            losses = functional.cross_entropy(
                scores.double(), known, ignore_index=self.ignored, label_smoothing=self.smoothing, reduction="none"
            )
        return _by_example(losses), self.counts(targets, len(losses)).to(losses.device)

    def counts(self, targets: Any, examples: int) -> Tensor:
        """Number of targets of every example that are not ignored, (n,)."""
        if targets.is_floating_point():
            return torch.full((examples,), float(targets[0, 0].numel()), dtype=torch.float64)
        return _by_example(self._valid(targets).double())

    def rows(self, outputs: Any, targets: Any) -> tuple[Any, Tensor] | None:
        """Scores (T, K), deferred ones as such, and classes (T,) of the terms; None of probabilities."""
        if targets.is_floating_point():
            return None
        scores, classes = self.aligned(outputs, targets)
        valid = classes != self.ignored
        if not isinstance(scores, Deferred):
            scores, classes, valid = scores.movedim(1, -1).flatten(0, -2), classes.flatten(), valid.flatten()
        return (scores[valid], classes[valid]) if isinstance(scores, Deferred) or not valid.all() else (scores, classes)

    def examples_of(self, targets: Tensor) -> Tensor:
        """Index (T,) of the example that each term belongs to."""
        return self._valid(targets).nonzero()[:, 0]

    def _valid(self, targets: Tensor) -> Tensor:
        """Which targets count, of those that scores belong to."""
        return (targets[:, 1:] if self.shifted else targets) != self.ignored

    def term_sums(self, products: Tensor) -> Tensor:
        """Summed over classes."""
        return products.sum(self.dimension, keepdim=True)

    def require(self, outputs: Any, targets: Any, title: str) -> None:
        """Require shapes that match, and whole numbers below the number of classes, or probabilities."""
        if self.dimension == 1 and isinstance(targets, Tensor) and targets.is_floating_point():
            self._require_probabilities(outputs, targets, title)
            return
        if not isinstance(targets, Tensor) or targets.is_floating_point():
            kind = "whole numbers" if isinstance(targets, Tensor) else "one tensor"
            raise LandscapeError(f"{self.name}: targets of {title} are not {kind}: give classes, or {_OTHERS}")
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else ()
        rest = shape[:-1] if self.dimension == -1 else shape[:1] + shape[2:]
        if len(shape) < 2 or rest[1:] != tuple(targets.shape[1:]) or len(rest) != targets.dim():
            expected = "(N, L, classes) and (N, L)" if self.dimension == -1 else "(N, classes, ...) and (N, ...)"
            given = f"{('N', *shape[1:])} and {('N', *targets.shape[1:])}".replace("'", "")
            raise LandscapeError(
                f"{self.name} compares outputs and targets of shapes {expected}, the network and {title} give {given}: "
                f"{'masked_lm and causal_lm have the classes last; ' if self.dimension == 1 else ''}{_OTHERS}"
            )
        classes = shape[self.dimension]
        wrong = ((targets < 0) | (targets >= classes)) & (targets != self.ignored)
        if wrong.any():
            index = tuple(wrong.nonzero()[0].tolist())
            value = int(targets[index])
            raise LandscapeError(
                f"{title}: target {value} of example {index[0]} is beyond the network's {classes} outputs: give "
                f"0..{classes - 1}, or --loss {self.name.partition(',')[0]},ignore_index={value} if it is not to count "
                f"(ignore_index is {self.ignored})"
            )

    def _require_probabilities(self, outputs: Any, targets: Tensor, title: str) -> None:
        fits = isinstance(outputs, Tensor) and outputs.dim() > 1 and outputs.shape[1:] == targets.shape[1:]
        # In the precision of a half.
        if not fits or bool((targets < 0).any()) or not bool((targets.sum(1) - 1).abs().max() < 1e-2):
            raise LandscapeError(
                f"{self.name}: targets of {title} are not whole numbers, and no probabilities of the network's classes "
                f"that add up to 1: give either, or {_OTHERS}"
            )
        if self.ignored != IGNORED:
            raise LandscapeError(f"{self.name}: there is no target to ignore among probabilities: leave it out")


@dataclass
class Elementwise(Loss):
    """A mean over the entries of outputs that have the targets' shape."""

    name: str
    function: Callable[..., Tensor]
    unit: str = "1"

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        """The mean over entries."""
        # (N, 1) against (N,) would silently broadcast to (N, N).
        return self.function(outputs, targets.to(outputs.dtype).view_as(outputs))

    def sums(self, outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
        """Sum and number of the entries of every example, (n,) float64 each."""
        outputs = outputs.double()
        losses = self.function(outputs, targets.double().view_as(outputs), reduction="none")
        return _by_example(losses), self.counts(targets, len(outputs)).to(losses.device)

    def counts(self, targets: Any, examples: int) -> Tensor:
        """Number of entries of every example."""
        return torch.full((examples,), float(targets.numel() // len(targets)), dtype=torch.float64)

    def term_sums(self, products: Tensor) -> Tensor:
        """Each entry is a term."""
        return products

    def require(self, outputs: Any, targets: Any, title: str) -> None:
        """Require targets of the outputs' shape; for ``bce``, in 0..1."""
        if not isinstance(targets, Tensor) or not isinstance(outputs, Tensor):
            raise LandscapeError(f"{self.name} needs one tensor of outputs and one of targets in {title}: {_OTHERS}")
        if outputs[0].numel() != targets[0].numel() or (
            [size for size in outputs.shape[1:] if size != 1] != [size for size in targets.shape[1:] if size != 1]
        ):
            given = f"{('N', *outputs.shape[1:])} and {('N', *targets.shape[1:])}".replace("'", "")
            raise LandscapeError(
                f"{self.name} of outputs and targets of shapes {given} in {title}: give targets of the outputs' shape, "
                f"choose another --output, or {_OTHERS}"
            )
        if self.unit == "nats" and not bool(((targets >= 0) & (targets <= 1)).all()):
            raise LandscapeError(f"bce: targets of {title} are not all in 0..1: give probabilities, or {_OTHERS}")


class RunningNetwork:
    """What a loss of the user's own is given as ``network``.

    Called, it gives the network's selected output, under the same dropout masks every time. Everything else is what the
    network has of that name, parts and methods included, with the parameters that are being evaluated.

    Parameters
    ----------
    module
        A private copy that has these parameters.
    run
        What calling it does.
    masked
        Makes the context in which parts of it are called.
    """

    def __init__(
        self, module: nn.Module, run: Callable[..., Any], masked: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        self._module, self._run, self.masked = module, run, masked

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """The selected output for inputs."""
        return self._run(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def __getitem__(self, key: Any) -> Any:
        return self._module[key]  # type: ignore[index]


class UserLoss(Loss):
    """A function of the user's own.

    Of (outputs, targets); or, when its first parameter is called ``network``, of (network, inputs, targets), for losses
    that need derivatives in the inputs, or parts of the network (`RunningNetwork`). ``targets`` may be left out. See
    `_RETURNS` for what it may return.

    Parameters
    ----------
    function
        The function.
    name
        Its name in the protocol.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.function, self.name = function, name
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        try:
            parameters = [one for one in inspect.signature(function).parameters.values() if one.kind in kinds]
        except ValueError:  # builtins without a signature
            parameters = []
        self._parameters = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
        self.needs_network = self._parameters[:1] == ["network"]
        # Terms of every example, where targets determine them: one each, unless the trial finds otherwise.
        self._counts: Callable[[Any, int], Tensor | None] = _one_each
        if self.needs_network:
            reason = "it runs the network itself and is not a function of its outputs alone"
            self.no_gauss_newton = self.no_fisher = reason

    def run(self, *arguments: Any) -> Any:
        """What the function returns for (outputs, targets) or (network, inputs, targets)."""
        count = len(self._parameters)
        with arguments[0].masked() if isinstance(arguments[0], RunningNetwork) else nullcontext():
            return self.function(*(arguments[:count] if 0 < count < len(arguments) else arguments))

    def __call__(self, *arguments: Any) -> Tensor:
        """The mean over the terms of a batch."""
        total, terms = self._total_and_terms(self.run(*arguments))
        if terms is None:
            return total.mean()
        count = float(torch.as_tensor(terms).detach().sum())
        return total.sum() / count if count else total.sum() * 0

    def sums(self, *arguments: Any) -> tuple[Tensor, Tensor]:
        """Sum and number of the terms of every example, (n,) float64 each; evaluated singly where it adds them up."""
        examples = _length(arguments[-2])
        total, terms = self._total_and_terms(self.run(*arguments))
        counts = torch.ones_like(total) if terms is None else torch.as_tensor(terms, device=total.device)
        # A single number beside a sum of every example is that of all of them together.
        if total.dim() == 1 and len(total) == examples == counts.numel():
            return total.detach().double(), counts.detach().double().view(examples)
        sums, numbers = [], []
        for index in range(examples):
            one = [_one_example(argument, index) for argument in arguments]
            value = self(*one).detach().double()
            _, terms = self._total_and_terms(self.run(*one)) if self._counts is _evaluated else (value, None)
            known = self._counts(one[-1], 1)
            number = float(torch.as_tensor(terms).sum()) if known is None else float(known)
            sums.append(value * number if number else torch.zeros_like(value))
            numbers.append(number)
        return torch.stack(sums), torch.tensor(numbers, dtype=torch.float64, device=sums[0].device)

    def counts(self, targets: Any, examples: int) -> Tensor | None:
        """Number of terms of every example, or None where it is known only from evaluating."""
        return self._counts(targets, examples)

    def _total_and_terms(self, result: Any) -> tuple[Tensor, Any]:
        pair = isinstance(result, (tuple, list)) and len(result) == 2
        total, terms = result if pair else (result, None)
        if not isinstance(total, Tensor) or total.dim() > 1:
            kind = f"tensor of shape {tuple(total.shape)}" if isinstance(total, Tensor) else type(result).__name__
            raise LandscapeError(f"the loss {self.name} returns a {kind}: {_RETURNS}")
        return total, terms

    def determine_terms(self, *arguments: Any) -> None:
        """Find out, on a few examples, what the terms are that the function takes the mean of.

        Raises
        ------
        LandscapeError
            When the loss of all examples is not a weighted mean of those of single examples, or is random.
        """
        examples = _length(arguments[-2])
        _, terms = self._total_and_terms(self.run(*arguments))
        if terms is not None:
            self._counts = _evaluated
        alone = [[_one_example(argument, index) for argument in arguments] for index in range(examples)]
        together, again = (float(self(*arguments).detach()) for _ in range(2))
        # A GPU may add up in another order each time.
        if abs(together - again) > 2e-6 * abs(together):
            raise LandscapeError(
                f"the loss {self.name} is random: of the same {examples} examples it is {together:.6g}, then "
                f"{again:.6g}: give its random numbers with the examples, as one of their inputs or targets"
            )
        single = torch.stack([self(*one).detach() for one in alone]).double()
        known = single.nan_to_num()
        scale, spread = max(abs(together), float(known.abs().max()), 1e-12), float(known.max() - known.min())
        # Where all examples have nearly the same loss, as in an untrained network, any weighting is close.
        allowed = min(_ROUNDING * scale, 1e-2 * spread) + 2e-6 * scale
        best = math.inf
        for guess in [_evaluated] if terms is not None else [_one_each, _not_ignored, _not_ignored_next]:
            if guess is _evaluated:
                numbers = [self._total_and_terms(self.run(*one))[1] for one in alone]
                counts: Tensor | None = torch.tensor([float(torch.as_tensor(one).sum()) for one in numbers]).double()
            else:
                counts = guess(arguments[-1], examples)
            if counts is None or not float(counts.sum()):
                continue
            difference = abs(float((known * counts.to(known)).sum() / counts.sum()) - together)
            # The first of those that are equal here.
            if difference < best:
                best, self._counts = difference, guess
        if self._counts is not _one_each:
            self.no_fisher = self.no_fisher or "its single terms are not known; only their sums are"
        if best <= allowed:
            return
        raise LandscapeError(
            f"the loss {self.name} is not a mean over examples: of {examples} together it is {together:.6g}, alone "
            f"they are {', '.join(f'{value:.4g}' for value in single[:4].tolist())}, ...: {_RETURNS}"
        )


class ModelLoss(UserLoss):
    """The loss that the network itself returns, given its targets among its inputs."""

    def __init__(self) -> None:
        super().__init__(self._own_loss, "model")
        self.no_gauss_newton = self.no_fisher = "the network computes it inside; name the loss instead"

    @staticmethod
    def _own_loss(network: Callable[..., Any], inputs: Tree, targets: Any) -> Tensor:
        output = called(network, inputs)
        loss = output.get("loss") if isinstance(output, dict) else getattr(output, "loss", None)
        if loss is None and isinstance(output, (tuple, list)) and output:
            loss = output[0]
        if loss is None and isinstance(output, Tensor):
            loss = output
        if not isinstance(loss, Tensor) or loss.dim():
            raise LandscapeError(
                "the network returns no loss: --loss model is for networks that return it, as loss, as the first of "
                f"several, or alone, when they are given labels; {_OTHERS}"
            )
        return loss


def called(network: Callable[..., Any], inputs: Tree) -> Any:
    """What a network returns for inputs: a tuple gives positional arguments, a dictionary of several, named ones."""
    if isinstance(inputs, dict):
        return network(*inputs.values()) if len(inputs) == 1 else network(**inputs)
    return network(*inputs) if isinstance(inputs, tuple) else network(inputs)


def _one_each(targets: Any, examples: int) -> Tensor:
    return torch.ones(examples, dtype=torch.float64)


def _not_ignored(targets: Any, examples: int) -> Tensor | None:
    if not isinstance(targets, Tensor) or targets.is_floating_point():
        return None
    return _by_example((targets != IGNORED).double())


def _not_ignored_next(targets: Any, examples: int) -> Tensor | None:
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.dim() < 2:
        return None
    return _by_example((targets[:, 1:] != IGNORED).double())


def _evaluated(targets: Any, examples: int) -> Tensor | None:
    return None


def _by_example(values: Tensor) -> Tensor:
    """Sums (n,) over all dimensions but the first, float64."""
    return values.double() if values.dim() == 1 else values.double().flatten(1).sum(1)


def _one_example(argument: Any, index: int) -> Any:
    """One example of a tree; None and functions as they are."""
    if argument is None or (callable(argument) and not isinstance(argument, Tensor)):
        return argument
    # A single number, such as a temperature, belongs to every example.
    return mapped(lambda tensor: tensor[index : index + 1] if tensor.dim() else tensor, argument)


def _length(tree: Any) -> int:
    while not isinstance(tree, Tensor):
        tree = next(iter(tree.values() if isinstance(tree, dict) else tree))
    return len(tree)


NAMES = ("cross_entropy", "causal_lm", "masked_lm", "mse", "bce", "model")
_FUNCTIONS = (
    (nn.functional.cross_entropy, "cross_entropy"),
    (nn.functional.mse_loss, "mse"),
    (nn.functional.binary_cross_entropy_with_logits, "bce"),
)


def resolved(loss: "str | Callable[..., Any] | Loss") -> Loss:
    r"""A loss by name, or of the user's own.

    Parameters
    ----------
    loss
        ``cross_entropy``, of scores (N, K, ...) and classes (N, ...), or probabilities of the scores' shape;
        ``masked_lm``, of scores (N, L, V) and tokens (N, L), and ``causal_lm``, the same with every token predicted
        from those before it; ``mse``, the mean of squared differences; ``bce``, binary cross-entropy of scores and
        probabilities; ``model``, what the network itself returns when it is given ``labels``. Terms are classes, tokens
        or entries; those with target -100 do not count. Parameters follow after commas:
        ``causal_lm,ignore_index=0,label_smoothing=0.1``. Or ``FILE.py:FUNCTION``, or a function, see `UserLoss`.

    Raises
    ------
    LandscapeError
        For an unknown name or parameter.
    """
    if isinstance(loss, Loss):
        return loss
    if not isinstance(loss, str):
        name = next((name for function, name in _FUNCTIONS if function is loss), None)
        return UserLoss(loss, _own_name(loss)) if name is None else resolved(name)
    name, *options = loss.split(",")
    if ":" in loss:
        function = named_object(loss)
        if not callable(function):
            raise LandscapeError(f"--loss {loss} is a {type(function).__name__}: name a function")
        return UserLoss(function, f"{printable(loss)}@{code_sha256(loss)[:12]}")
    if name not in NAMES:
        raise LandscapeError(f"unknown loss {name!r}: choose one of {', '.join(NAMES)}, or give FILE.py:FUNCTION")
    if name in ("cross_entropy", "causal_lm", "masked_lm"):
        ignored, smoothing = _options(name, options)
        given = [f"ignore_index={ignored}"] * (ignored != IGNORED)
        given += [f"label_smoothing={smoothing:g}"] * (smoothing > 0)
        return Classification(
            ",".join([name, *given]),
            dimension=1 if name == "cross_entropy" else -1,
            shifted=name == "causal_lm",
            ignored=ignored,
            smoothing=smoothing,
        )
    if options:
        raise LandscapeError(f"--loss {name} has no parameters: leave out {','.join(options)}")
    if name == "model":
        return ModelLoss()
    if name == "mse":
        return Elementwise(name, functional.mse_loss)
    return Elementwise(name, functional.binary_cross_entropy_with_logits, unit="nats")


def _options(name: str, options: list[str]) -> tuple[int, float]:
    ignored, smoothing = IGNORED, 0.0
    for option in options:
        key, _, value = option.partition("=")
        try:
            if key == "ignore_index":
                ignored = int(value)
                continue
            if key == "label_smoothing" and 0 <= float(value) < 1:
                smoothing = float(value)
                continue
        except ValueError:
            pass
        raise LandscapeError(
            f"--loss {name} does not take {option!r}: give ignore_index=N or label_smoothing=X in 0..1"
        )
    return ignored, smoothing


def _own_name(function: Callable[..., Any]) -> str:
    """Module, name and a digest of source and settings, since two functions of one name are different losses."""
    settings = ""
    if isinstance(function, functools.partial):
        settings, function = _plain([function.args, function.keywords]), function.func
    written: Any = function
    if not hasattr(function, "__code__"):  # an object
        written = type(function)
        held = getattr(function, "__dict__", {})
        settings += _plain({name: value for name, value in held.items() if name != "training"})
    try:
        source = inspect.getsource(written)
    except (OSError, TypeError):
        source = repr(getattr(function, "__code__", type(function)))
    name = getattr(function, "__qualname__", type(function).__qualname__)
    module = str(getattr(function, "__module__", "?"))
    if module.startswith("_landscape_user_"):  # a file that was named on a command line
        module = Path(inspect.getfile(function)).name
    digest = hashlib.sha256((source + settings).encode()).hexdigest()[:12]
    return printable(f"{module}:{name}@{digest}")


def _plain(value: Any) -> str:
    """Numbers, texts, tensors, and collections of them, the same in every process; of anything else its type."""
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(content(value)).hexdigest()}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {_plain(each)}' for name, each in sorted(value.items(), key=str))}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_plain, value))}]"
    return repr(value) if isinstance(value, (bool, int, float, str, type(None))) else type(value).__qualname__
