"""Content-addressed measurements: measured once, then read from the cache."""

import argparse
import datetime
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landscape.command.output import remark
from landscape.command.subjects import Subject, require_writable
from landscape.errors import printable
from landscape.store.files import beside, file_name

if TYPE_CHECKING:
    import xarray

    from landscape.store.journal import Journal


_LOG = logging.getLogger("landscape.command")


@dataclass(frozen=True)
class Question:
    """A measurement of a subject, with the content address of its result.

    A command line's questions share two lists: `saved` gets the file of every result, `remarks` are printed when
    something is measured for the first time.
    """

    instrument: str
    subject: Subject
    settings: Mapping[str, Any]
    seed: int
    out: Path | None = None
    saved: list[Path] = field(default_factory=list, compare=False)
    remarks: list[str] = field(default_factory=list, compare=False)

    @property
    def key(self) -> str:
        """Content address."""
        from landscape.data import NAMES
        from landscape.store import result

        # The same weights may be of another network: dropout, nonlinearities and blurs have none.
        network = self.subject.checkpoint.network
        named: dict[str, Any] = {"network": network} if network else {}
        # The same examples may stand for another population, or be augmented otherwise: not where a name says both.
        data = self.subject.data
        if data.name not in NAMES:
            facts = ("population", "crop_padding", "flip")
            named |= {name: value for name in facts if (value := getattr(data, name, None))}
        return result.key(
            self.instrument,
            protocol=self.subject.protocol,
            settings={**self.settings, "weight_decay": self.subject.weight_decay, **named},
            checkpoint_sha256=self.subject.checkpoint.sha256,
            data_sha256=self.subject.data.sha256,
            seed=self.seed,
        )

    @property
    def path(self) -> Path:
        """Where the result is kept."""
        what = self.instrument.removeprefix("landscape.")
        return self.out or Path("results") / what / file_name(f"{self.subject.name}-{self.key}", ".nc")

    @property
    def journal(self) -> Path:
        """Where finished pieces are kept until the result is whole."""
        # Not by the result's name, which may be as long as names can be.
        return self.path.with_name(f".{self.key}.journal")


def question(arguments: argparse.Namespace, instrument: str, subject: Subject, settings: Mapping[str, Any]) -> Question:
    """The measurement that a command line wants of a subject."""
    out = arguments.out
    if out is not None and len(arguments.checkpoints) > 1:
        out = beside(out, subject.name)
    settings = {**settings, "batch": arguments.batch}
    return Question(
        instrument=instrument,
        subject=subject,
        settings=settings,
        seed=arguments.seed,
        out=out,
        saved=arguments.__dict__.setdefault("saved", []),
        remarks=arguments.__dict__.setdefault("remarks", []),
    )


def answer(question: Question, measure: "Callable[[Journal], xarray.Dataset]", *, force: bool) -> "xarray.Dataset":
    """The result from the cache, or measured now and kept; under torchrun rank 0 writes.

    Parameters
    ----------
    question
        What to measure; the path of its result is appended to `Question.saved`.
    measure
        Measures, with a journal that is removed when the result is stored; its result gets the provenance attributes
        here. An attribute ``seconds_before``, what a killed run had spent on the pieces it kept, is added to the
        seconds.
    force
        Measure even when there is a result.
    """
    from landscape.compute import distributed
    from landscape.store import journal as journals, result
    from landscape.store.vocabulary import described

    require_writable(question.path)
    question.saved.append(question.path)
    known = None if force else result.cached(question.path, question.key)
    if known is not None:
        if distributed.is_main():
            # What a process that was killed as soon as its result was whole has left.
            journals.remove(question.journal, before=question.path.stat().st_mtime)
        _LOG.info("%s was measured before: --force measures again", question.path)
        # The checkpoint may have been renamed since.
        known.attrs["name"] = question.subject.name
        return described(known)
    distributed.barrier()
    while question.remarks:
        remark(question.remarks.pop())
    with journals.Journal(question.journal, {"key": question.key}, process=distributed.rank()) as journal:
        started = time.perf_counter()
        dataset = measure(journal)
        dataset.attrs |= result.provenance(
            instrument=question.instrument,
            protocol=question.subject.protocol,
            settings=question.settings,
            checkpoint_sha256=question.subject.checkpoint.sha256,
            data_sha256=question.subject.data.sha256,
            seed=question.seed,
            seconds=time.perf_counter() - started + dataset.attrs.pop("seconds_before", 0.0),
        )
        dataset.attrs |= {
            "key": question.key,
            "name": printable(question.subject.name),
            "data": question.subject.data.title,
            "sample": question.subject.data.described(question.subject.protocol.images),
            "weight_decay": question.subject.weight_decay,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        dataset = described(dataset)
        if distributed.is_main():
            result.save(dataset, question.path)
        distributed.barrier()
        journal.remove()
    return dataset
