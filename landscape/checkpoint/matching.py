"""Names in a file matched to the names of a network.

Files put wrappers around names (``module.``, ``_orig_mod.``, ``model.net.``), leave names out (counters, tied weights)
or add some (an auxiliary head). Which of these it is follows from comparing all names of both sides; there is no list
of known wrappers.
"""

import difflib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from landscape.checkpoint.content import Content, StateDict, is_average
from landscape.compute.randomness import generator
from landscape.errors import LandscapeError, printable

_LOG = logging.getLogger("landscape.checkpoint")
Renaming = Callable[[str], str | None]
# Enough names to see every wrapper, few enough to compare a network of thousands of tensors in no time.
_PROBES = 24


@dataclass(frozen=True)
class Match:
    """Names of a file by the names of the network that they belong to.

    Attributes
    ----------
    state
        Part of the file.
    names
        Network's name -> file's name.
    fitting
        How many of them have the network's shape.
    """

    state: StateDict
    names: dict[str, str]
    fitting: int

    @property
    def unused(self) -> list[str]:
        """Names of tensors in the file that the network has no place for."""
        used = set(self.names.values())
        return [name for name in self.state.shapes if name not in used]


def best(states: Sequence[StateDict], expected: Mapping[str, tuple[int, ...]]) -> Match:
    """The part of a file, and the reading of its names, that fit a network most completely."""
    matches = [_matched(state, expected) for state in states]
    # The first of equals: what comes first is the network, what follows are copies and averages of it.
    return max(matches, key=lambda match: (len(match.names), match.fitting))


def _matched(state: StateDict, expected: Mapping[str, tuple[int, ...]]) -> Match:
    best = Match(state, {}, 0)
    for renaming in _renamings(list(state.shapes), list(expected)):
        names: dict[str, str] = {}
        unique = True
        for name in state.shapes:
            renamed = renaming(name)
            if renamed is not None and renamed in expected:
                unique = unique and renamed not in names
                names.setdefault(renamed, name)
        fitting = sum(_alike(state.shapes[name], expected[own]) for own, name in names.items())
        if unique and (len(names), fitting) > (len(best.names), best.fitting):
            best = Match(state, names, fitting)
            if len(names) == len(expected) == fitting:
                break
    return best


def _alike(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return one == other or {one, other} == {(), (1,)}


def _renamings(given: list[str], expected: list[str]) -> Iterator[Renaming]:
    """Ways to read the names of a file, the plainest first."""
    yield lambda name: name
    yield from _prefixes(given, expected, lambda name: name)
    # Wrappers within names, as of blocks that were compiled or wrapped by themselves.
    known = {part for name in expected for part in name.split(".")}

    def bare(name: str) -> str:
        return ".".join(part for part in name.split(".") if part in known)

    yield bare
    yield from _prefixes(given, expected, bare)
    # The follow-up paper's blocks (how-do-vits-work): convolution and batch norm in one Sequential.
    if any(re.search(r"(^|\.)conv\d\.[01]\.", name) for name in given):

        def flat(name: str) -> str:
            name = re.sub(r"(^|\.)conv(\d)\.1\.", r"\1bn\2.", name)
            return re.sub(r"(^|\.)conv(\d)\.0\.", r"\1conv\2.", name)

        yield flat
        yield from _prefixes(given, expected, flat)


def _prefixes(given: list[str], expected: list[str], first: Callable[[str], str]) -> Iterator[Renaming]:
    """Renamings that take one prefix off, or put one before."""
    given = [first(name) for name in given]
    step = max(1, len(expected) // _PROBES)
    off: dict[str, None] = {}
    for own in expected[::step]:
        off |= {name[: -len(own)]: None for name in given if name.endswith(f".{own}")}
    # In the file's order: the network itself comes before its copies.
    for prefix in sorted(off, key=is_average):
        yield (
            lambda name, prefix=prefix: (  # type: ignore[misc]
                first(name)[len(prefix) :] if first(name).startswith(prefix) else None
            )
        )
    step = max(1, len(given) // _PROBES)
    on: dict[str, None] = {}
    for name in given[::step]:
        on |= {own[: -len(name)]: None for own in expected if own.endswith(f".{name}")}
    for prefix in sorted(on, key=len):
        yield lambda name, prefix=prefix: prefix + first(name)  # type: ignore[misc]


def fill(
    network: nn.Module,
    content: Content,
    *,
    likeliest: Callable[[StateDict], str | None],
    again: Callable[[], nn.Module] | None = None,
) -> None:
    """Put the weights of a file into a network, every one in its place.

    Parameters
    ----------
    network
        Changed in place.
    content
        The file.
    likeliest
        Describes which of our networks a part of the file belongs to, for messages; None when it is none of ours.
    again
        Builds the network once more, to see whether a buffer that the file lacks follows from the definition.

    Raises
    ------
    LandscapeError
        When weights are missing, left over within the network's own parts, of another shape or type, or not finite.
    """
    state = network.state_dict()
    expected = {name: tuple(tensor.shape) for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}
    match = best(content.states, expected)
    path = content.path
    missing = [name for name in expected if name not in match.names]
    tied = _tied(network, match.names)
    derived = [name for name in missing if name not in tied and _derivable(network, name, again)]
    lacking = [name for name in missing if name not in tied and name not in derived]
    misplaced = _misplaced(match, network, expected)
    if lacking or misplaced:
        raise _unlike(match, content, expected, lacking, misplaced, likeliest)
    tensors = {}
    for own, name in match.names.items():
        tensors[own] = _checked(match, name, state[own], path)
    for own, names in _shared(network, match.names).items():
        if any(not torch.equal(tensors[own], tensors[other]) for other in names):
            raise LandscapeError(
                f"{own} and {names[0]} are one tensor in the network and two in {path}: untie them in the network"
            )
    network.load_state_dict(tensors, strict=False)
    _tell(match, content, derived)


def _checked(match: Match, name: str, own: torch.Tensor, path: Path) -> torch.Tensor:
    """A tensor of the file that can take its place in the network."""
    shape = match.state.shapes[name]
    if not _alike(shape, tuple(own.shape)):
        raise LandscapeError(
            f"{name} of {path} has shape {shape}, the network's has {tuple(own.shape)}: check --model and --num-classes"
        )
    tensor = match.state.tensor(name).reshape(own.shape)
    if tensor.is_complex() and not own.is_complex():
        raise LandscapeError(
            f"{name} of {path} holds {str(tensor.dtype)[6:]} where the network has {str(own.dtype)[6:]}: "
            "build the network with complex parameters, as it was trained"
        )
    if _is_continuous(own):
        if not _is_continuous(tensor):
            raise LandscapeError(
                f"{name} of {path} holds {str(tensor.dtype).removeprefix('torch.')} where the network has floating "
                "point: save the weights before they are quantised"
            )
        if not tensor.isfinite().all():
            count = int((~tensor.isfinite()).sum())
            raise LandscapeError(
                f"{name} of {path} has {count} non-finite of {tensor.numel()} numbers: "
                "the training diverged; use an earlier checkpoint"
            )
    elif tensor.is_floating_point() and not torch.equal(tensor, tensor.round()):
        raise LandscapeError(f"{name} of {path} holds fractions where the network has whole numbers: check --model")
    return tensor.to(own.dtype)


def _is_continuous(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _tied(network: nn.Module, names: Iterable[str]) -> set[str]:
    """Names whose tensor the file has under another name of it."""
    by_tensor = _groups(network)
    present = set(names)
    return {name for group in by_tensor for name in group if any(other in present for other in group)} - present


def _shared(network: nn.Module, names: Iterable[str]) -> dict[str, list[str]]:
    """Tensors that the network has under several names, of those that the file has."""
    present = set(names)
    groups = [[name for name in group if name in present] for group in _groups(network)]
    return {group[0]: group[1:] for group in groups if len(group) > 1}


def _groups(network: nn.Module) -> list[list[str]]:
    groups: dict[int, list[str]] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        groups.setdefault(id(tensor), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _derivable(network: nn.Module, name: str, again: Callable[[], nn.Module] | None) -> bool:
    """Whether the network's own value of a tensor that the file lacks is the right one.

    Counters are not used in evaluation. Other buffers follow from the network's definition (indices, masks, kernels,
    positions) when it gives the same ones twice; running statistics and parameters are learned.
    """
    if name.endswith("num_batches_tracked"):
        return True
    buffers = dict(network.named_buffers(remove_duplicate=False))
    if name not in buffers:
        return False
    if isinstance(network.get_submodule(name.rpartition(".")[0]), _NormBase) or "running_" in name:
        return False
    if not _is_continuous(buffers[name]):
        return True
    if again is None:
        return False
    # Initial values from another seed: what is drawn differs.
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(generator(0, "another network").get_state())
        other = dict(again().named_buffers(remove_duplicate=False)).get(name)
    return other is not None and torch.equal(other, buffers[name])


def _misplaced(match: Match, network: nn.Module, expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Tensors left over that lie within the network's own parts: of a deeper network, not beside this one.

    A part that the network lacks altogether (an auxiliary head, a second network) is left over without harm, and so are
    buffers that the network computes for itself.
    """
    if not match.names:
        return []
    own, name = next(iter(match.names.items()))
    prefix = name[: -len(own)] if name.endswith(own) else ""
    tops = {_series(each) for each in expected}
    holders = {each.rpartition(".")[0] for each in expected}
    computed = {name for name, _ in network.named_buffers()} - expected.keys()
    names = []
    for name in match.unused:
        bare = name.removeprefix(prefix)
        counter = name.endswith("num_batches_tracked")
        if prefix and not name.startswith(prefix):
            continue
        whole = not _is_continuous(match.state.tensor(name)) if bare.rpartition(".")[0] in holders else False
        if _series(bare) in tops and bare not in computed and not counter and not whole:
            names.append(name)
    return names


def _series(name: str) -> str:
    """First part of a name without its number: ``layer`` of ``layer4.0.conv1.weight``."""
    return name.partition(".")[0].rstrip("0123456789")


def _unlike(
    match: Match,
    content: Content,
    expected: Mapping[str, tuple[int, ...]],
    lacking: list[str],
    misplaced: list[str],
    likeliest: Callable[[StateDict], str | None],
) -> LandscapeError:
    """Why a file and a network do not belong together."""
    other = likeliest(match.state)
    advice = f"these are the weights of {other}" if other else "name the network that they belong to with --model"
    return LandscapeError(f"{_missing_or_extra(match, content.path, expected, lacking, misplaced)}: {advice}")


def _missing_or_extra(
    match: Match, path: Path, expected: Mapping[str, tuple[int, ...]], lacking: list[str], misplaced: list[str]
) -> str:
    if lacking:
        first = lacking[0]
        if first in match.state.opaque:
            kind = printable(match.state.opaque[first], 60)
            return f"{first} of {path} is not a plain tensor but a {kind}"
        near = difflib.get_close_matches(first, match.unused, n=1)
        hint = f" (it has {printable(near[0], 80)} instead)" if near else ""
        return f"{path} has no {first}{hint}; {len(lacking)} of {len(expected)} tensors of the network are missing"
    count = len(misplaced)
    return f"{path} has {printable(misplaced[0], 80)}, which the network lacks ({count} such tensors within its parts)"


def _tell(match: Match, content: Content, derived: list[str]) -> None:
    """One line on what was filled in, and one on what was not used."""
    path = content.path
    if match.state.entry:
        _LOG.info("%s: weights from its entry %s", path, printable(match.state.entry, 60))
    if derived:
        _LOG.info("%s lacks %d buffers that follow from the network (%s): filled", path, len(derived), derived[0])
    unused = [name for name in match.unused if not name.endswith("num_batches_tracked")]
    parts = []
    if unused:
        parts.append(f"{len(unused)} tensors that the network has no place for ({_some(unused)})")
    if content.entries:
        parts.append(f"{len(content.entries)} other entries ({_some(content.entries)})")
    others = [state.entry or "the file itself" for state in content.states if state is not match.state]
    if others:
        parts.append(f"{len(others)} other collections of tensors ({_some(others)})")
    if parts:
        _LOG.log(logging.WARNING if unused else logging.INFO, "%s: not used: %s", path, "; ".join(parts))


def _some(names: Iterable[str]) -> str:
    listed = [printable(name, 60) for name in names]
    return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")
