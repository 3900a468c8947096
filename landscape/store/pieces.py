"""Long work in pieces: shared out over processes, journalled, shown, and collected on every process."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch.distributed

from landscape.compute import distributed
from landscape.compute.progress import Progress
from landscape.store.journal import Journal

Arrays = Mapping[str, np.ndarray]


def pieces(
    keys: Sequence[str],
    compute: Callable[[str], Arrays],
    *,
    journal: Journal | None,
    what: str,
    unit: str = "piece",
    steps: Sequence[int] | None = None,
    quiet: bool = True,
    show: Callable[[str, Arrays], Mapping[str, object]] | None = None,
    each: Callable[[Callable[[str], Arrays], Sequence[str]], Iterable[Arrays]] = map,
) -> Iterator[tuple[str, Arrays]]:
    """Pieces by key, each as soon as it is there: from the journal, or computed by one of the processes.

    Every process gets all of them, and must take all of them. A single process keeps none of them, so that memory does
    not grow with their number.

    Parameters
    ----------
    keys
        What the pieces are called in the journal.
    compute
        Gives the arrays of a piece. Its numbers must depend neither on the process nor on other pieces.
    journal
        Where finished pieces are looked up, and kept as soon as they are computed.
    what, unit
        Of the progress bar.
    steps
        Steps of the bar for each piece; one unless given.
    quiet
        No progress bar.
    show
        What the bar shows behind a computed piece.
    each
        How `compute` is applied to keys: ``map``, or several at a time (`landscape.compute.workers.each`).
    """
    size = dict(zip(keys, steps or [1] * len(keys), strict=True))
    known = [key for key in keys if journal is not None and key in journal]
    # Journals may differ from process to process: another machine's, or one that a faster process already writes to.
    holders = [set(held) for held in _gathered(known)]
    everywhere = set(known).intersection(*holders)
    anywhere = set(known).union(*holders)
    mine = distributed.partition([key for key in keys if key not in anywhere])
    rank = distributed.rank()
    to_send = [key for key in known if key not in everywhere and not any(key in held for held in holders[:rank])]
    sent: dict[str, Arrays] = {}
    alone = distributed.world_size() == 1
    total = sum(size.values())
    with Progress(total, what, unit=unit, quiet=quiet or not distributed.is_main()) as bar:
        bar.resumed(sum(size[key] for key in anywhere))
        computed = each(compute, mine)
        try:
            for key, arrays in zip(mine, computed, strict=True):
                if journal is not None:
                    journal.write(key, arrays)
                if alone:
                    yield key, arrays
                else:
                    sent[key] = arrays
                # The others are about as far.
                done = min(size[key] * distributed.world_size(), total - bar.done)
                bar.update(done, **(show(key, arrays) if show else {}))
        finally:
            # Work on other threads ends here, not when the iterator is collected.
            if isinstance(computed, Generator):
                computed.close()
    if journal is not None:
        sent |= {key: journal[key] for key in to_send}
        for key in keys:
            if key in everywhere:
                yield key, journal[key]
    for part in _gathered(sent):
        yield from part.items()


def joined(parts: Sequence[Arrays]) -> dict[str, np.ndarray]:
    """Arrays of consecutive examples as one, by name."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _gathered(mine: Any) -> list[Any]:
    """What every process gives, by rank; empty for a single process."""
    received: list[Any] = [None] * distributed.world_size()
    if len(received) == 1:
        return []
    torch.distributed.all_gather_object(received, mine)
    return received
