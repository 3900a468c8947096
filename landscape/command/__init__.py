"""What all commands share: arguments, checkpoints and data, errors in one line, results that are measured once.

Importing this package imports no numerics, so that a command answers ``--help`` and Ctrl-C from the first moment.
"""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.command.cautions import caution, caution_about_fit, fit_in_words
    from landscape.command.instrument import Instrument, one_or_all, picture
    from landscape.command.launch import BAD_INPUT, INTERRUPTED, STOPPED_IN_TIME, TERMINATED, launch, run
    from landscape.command.output import facts_of, remark, report, strict, to_strict_json
    from landscape.command.parser import (
        Parser,
        byte_count,
        count_or_all,
        instrument_parser,
        numbers,
        positive,
    )
    from landscape.command.questions import Question, answer, journaled, question
    from landscape.command.subjects import (
        Subject,
        checkpoint_path,
        described,
        device,
        load_checkpoint,
        objective,
        require_writable,
        subjects,
        with_fit,
    )
    from landscape.tables import columns

__all__ = [
    "BAD_INPUT",
    "INTERRUPTED",
    "STOPPED_IN_TIME",
    "TERMINATED",
    "Instrument",
    "Parser",
    "Question",
    "Subject",
    "answer",
    "byte_count",
    "caution",
    "caution_about_fit",
    "checkpoint_path",
    "columns",
    "count_or_all",
    "described",
    "device",
    "facts_of",
    "fit_in_words",
    "instrument_parser",
    "journaled",
    "launch",
    "load_checkpoint",
    "numbers",
    "objective",
    "one_or_all",
    "picture",
    "positive",
    "question",
    "remark",
    "report",
    "require_writable",
    "run",
    "strict",
    "subjects",
    "to_strict_json",
    "with_fit",
]

lazy.attach(__name__)
