"""Tables: no more digits than an error leaves, and a sentence that says how networks compare."""

import math

import pytest

from landscape import tables


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (193.4217, 5.8, "193.4 ± 5.8"),
        (193.4217, 58, "193 ± 58"),
        (1234567.0, 52000.0, "1235000 ± 52000"),
        (0.0312345, 0.00021, "0.03123 ± 0.00021"),
        (-0.5, 0.099, "-0.500 ± 0.099"),
        (3.0, 0.0, "3 ± 0"),
        (3.0, math.nan, "3 ± nan"),
    ],
)
def test_digits_end_where_the_error_begins(value: float, error: float, text: str) -> None:
    assert tables.with_error(value, error) == text


def test_an_interval_has_the_digits_of_half_its_width() -> None:
    assert tables.with_interval(12.34567, 11.98765, 12.71234) == "12.35 [11.99, 12.71]"


def test_paired_differences_are_told_apart_where_their_intervals_are_beyond_doubt() -> None:
    def said(*intervals: tuple[float, float], neutral: float = 0.0) -> str:
        return tables.told_apart("the drop", "A", "B", ["low", "high"], intervals, neutral=neutral)

    assert said((1, 2), (0.5, 3)) == "the drop of B is higher than that of A everywhere."
    assert said((1, 2), (-3, -1)) == "the drop of B is higher than that of A at low; lower at high."
    doubt = "the choice of images alone may explain the difference."
    assert said((0.5, 0.9), (0.9, 1.1), neutral=1) == f"the drop of B is lower than that of A at low; at high {doubt}"
    assert said((-1, 2), (math.nan, math.nan)) == f"the drop of B and of A: everywhere {doubt}"


def test_a_comparison_says_whether_the_intervals_tell_networks_apart() -> None:
    near, far, unknown = tables.compared(
        "the eigenvalue", ["A", "B", "C", "D"], [10, 12, 30, 20], [(8, 12), (9, 15), (25, 35), (math.nan, math.nan)]
    )
    assert near.startswith("the eigenvalue of B is 1.2 times that of A; the 95 % intervals overlap")
    assert "3 times" in far
    assert "do not meet" in far
    assert "without intervals" in unknown
    assert tables.compared("x", ["A"], [1], [(0, 2)]) == []
