"""What all commands share: arguments, checkpoints and data, errors in one line, results that are measured once.

Importing this package imports no numerics, so that a command answers ``--help`` and Ctrl-C from the first moment.
"""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.command.cautions import caution, caution_about_fit, fit_in_words
    from landscape.command.instrument import Instrument, one_or_all, picture
    from landscape.command.launch import BAD_INPUT, STOPPED_IN_TIME, launch, run
    from landscape.command.output import facts_of, remark, report, strict, to_strict_json
    from landscape.command.parser import (
        Parser,
        add_parts,
        byte_count,
        count_or_all,
        instrument_parser,
        numbers,
        parts,
        positive,
        seed,
    )
    from landscape.command.questions import Question, answer, question
    from landscape.command.subjects import (
        Subject,
        checkpoint_path,
        described,
        device,
        load_checkpoint,
        objective,
        pass_settings,
        require_picture_name,
        require_writable,
        subjects,
        with_fit,
    )
    from landscape.tables import columns

lazy.attach(__name__)
