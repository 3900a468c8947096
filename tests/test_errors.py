import copy
import pickle

import pytest

from landscape.errors import LandscapeError, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("résumé 字 λ.pth", "résumé 字 λ.pth"),
        ("a\x1b[31mred\x07", r"a\x1b[31mred\x07"),
        ("two\nlines\r", r"two\nlines\r"),
        ("\x9b31m\u202egnp.exe\u200b\u2028", r"\x9b31m\u202egnp.exe\u200b\u2028"),
        ("not utf-8: \udcff", r"not utf-8: \udcff"),
        (3.5, "3.5"),
    ],
)
def test_what_is_shown_is_harmless_and_ordinary_names_are_unchanged(text, shown):
    assert printable(text) == shown
    assert printable(text).isprintable()
    assert str(LandscapeError(text)) == shown


def test_long_text_is_cut():
    assert printable("x" * 50, 10) == "xxxxxxx..."
    assert len(str(LandscapeError("x" * 10**6))) == 2000


def test_an_error_can_be_copied_and_sent_to_another_process():
    error = LandscapeError("bad \x1b")
    assert str(copy.copy(error)) == str(pickle.loads(pickle.dumps(error))) == r"bad \x1b"
