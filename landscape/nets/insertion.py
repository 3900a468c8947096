"""Where a smoothing layer can be inserted: before what subsamples, at the beginning or end of a module."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from landscape.nets.tracing import Node, Trace

Side = Literal["before", "after"]


@dataclass(frozen=True)
class LeftOut:
    """One subsampling that got no smoothing layer, and why."""

    subsampling: str
    reason: str

    def __str__(self) -> str:
        return f"none for {self.subsampling}: {self.reason}"


def label(node: Node) -> str:
    """Module and operation, for people."""
    return f"{node.scope[-1] or 'the network'} ({node.operation})"


def insertion_points(trace: Trace) -> tuple[dict[tuple[Side, str], tuple[int, list[int]]], list[LeftOut]]:
    """Where to insert layers: (side, module) -> (node that is smoothed, subsampling nodes behind it)."""
    left_out, points = [], dict[tuple[Side, str], tuple[int, list[int]]]()
    wanted = []
    for index, node in enumerate(trace.nodes):
        if node.subsamples is None:
            continue
        if not trace.nodes[node.subsamples].learned:
            left_out.append(LeftOut(label(node), "it reads the images themselves"))
        elif _fits(node) and any(_pools(trace.nodes[each]) for each in _pointwise(trace, node.subsamples)):
            left_out.append(LeftOut(label(node), "it fits to a dense head what was pooled just before"))
        elif index in trace.gates:
            left_out.append(LeftOut(label(node), "it is a gate: its result is spread over the map again"))
        else:
            wanted.append(index)
    for group in _groups(trace, wanted):
        for operations in _together(trace, group):
            source = trace.common([_source(trace, each) for each in operations])
            boundary = _boundary(trace, source, operations)
            if boundary is None:
                left_out += [
                    LeftOut(label(trace.nodes[each]), "no module begins or ends at the map that it reads")
                    for each in operations
                ]
            else:
                side, name, node_index = boundary
                points.setdefault((side, name), (node_index, []))[1].extend(operations)
    return points, left_out


def _fits(node: Node) -> bool:
    return "adaptive" in node.operation and math.prod(node.shape[2:]) > 1


def _pools(node: Node) -> bool:
    return node.subsamples is not None and node.operation != "conv2d"


def _source(trace: Trace, operation: int) -> int:
    source = trace.nodes[operation].subsamples
    assert source is not None
    return source


def _groups(trace: Trace, wanted: list[int]) -> list[list[int]]:
    """Subsamplings in parallel: those whose results meet."""
    group = {each: each for each in wanted}

    def head(each: int) -> int:
        while group[each] != each:
            each = group[each]
        return each

    for merged in trace.merged:
        members = sorted(each for each in merged if each in group)
        for each in members[1:]:
            one, other = sorted((head(members[0]), head(each)))
            group[other] = one
    groups: dict[int, list[int]] = {}
    for each in wanted:
        groups.setdefault(head(each), []).append(each)
    return list(groups.values())


def _together(trace: Trace, group: list[int]) -> list[list[int]]:
    """The group as one, if one layer can serve it; each by itself otherwise."""
    sources = [_source(trace, each) for each in group]
    common = trace.common(sources)
    sizes = {trace.nodes[each].shape[2:] for each in (common, *sources)}
    if len(sizes) == 1 and trace.nodes[common].learned and _boundary(trace, common, group) is not None:
        return [group]
    return [[each] for each in group]


def _boundary(trace: Trace, node: int, operations: list[int]) -> tuple[Side, str, int] | None:
    """The outermost module that begins with that node and holds the operations; otherwise one that ends with it.

    Each of the two is looked for at nodes further up, too, past pointwise operations.
    """
    inside = set(trace.nodes[operations[0]].scope).intersection(*(trace.nodes[each].scope for each in operations[1:]))
    above = list(_pointwise(trace, node))
    for each in above:
        for name, taken in trace.takes.items():
            if name and taken == each and name in inside and trace.calls[name] == 1:
                return "before", name, each
    for each in above:
        for name, returned in reversed(trace.returns.items()):
            if name and returned == each and trace.calls[name] == 1:
                return "after", name, each
    return None


def _pointwise(trace: Trace, node: int) -> Iterator[int]:
    """The node and those above it that differ from it by pointwise operations, on learned maps."""
    while trace.nodes[node].learned and len(trace.nodes[node].shape) == 4:
        yield node
        here = trace.nodes[node]
        spatial = "conv" in here.operation or "pool" in here.operation
        if spatial or len(here.inputs) != 1 or trace.nodes[here.inputs[0]].shape != here.shape:
            return
        node = here.inputs[0]
