"""Numbers as text: the digits that their interval supports."""

from __future__ import annotations

import math

from llmsched._util.text import MISSING, count_text, interval_text, number_text, share_text


def test_interval__has_two_digits_of_its_half_width_and_the_mean_as_many_decimals():
    cases = {
        (32118.94, 32100.0, 32137.88): "32,119 ± 19",
        (32119.0, 27612.0, 36626.0): "32,100 ± 4,500",
        (0.99783, 0.99763, 0.99803): "0.99783 ± 0.00020",
        (0.5, -4.5, 5.5): "0.5 ± 5.0",
        (1000.0, 999.99999, 1000.00001): "1,000.00 ± <0.01",
        (-0.00001, -0.9, 0.9): "0.00 ± 0.90",
        (0.0, 0.0, 0.0): "0 ± 0",
        (7.25, math.nan, math.nan): "7.25",
        (math.nan, math.nan, math.nan): MISSING,
    }
    assert {given: interval_text(*given) for given in cases} == cases


def test_number__with_a_sign_is_plus_or_minus_and_zero_is_neither():
    signed = [number_text(value, sign=True) for value in (2.5, -2.5, 0.0, -0.0)]
    assert signed == ["+2.5", "−2.5", "0", "0"]
    assert [number_text(value) for value in (math.inf, None, 1e-9)] == ["∞", MISSING, "1e-09"]
    assert [number_text(value) for value in (0.1, 999.96, 123456, 2.5e9)] == [
        *("0.1", "1000", "123,456", "2.5e+09")
    ]


def test_share__is_cut_at_what_a_share_can_be():
    assert share_text(0.65, -0.2, 1.5) == "65 % (0–100)"
    assert share_text(0.05, 0.05, 0.05) == "5 %"
    assert count_text(1_000_000, "request") == "1,000,000 requests"
