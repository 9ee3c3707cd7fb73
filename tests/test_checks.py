"""What was expected and what came: the sentences that answer a mistaken option."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ean_lib.checks import check, check_choice, check_number


def test_a_check_that_holds_says_nothing():
    check("lr", 0.1, True, "positive")
    check_number("noise", 0.5, high=1)
    check_number("seed", np.int64(3), whole=True)
    check_number("budget", 10**12, low=1, whole=True)
    check_choice("mode", "official", ("corrected", "official"))


def test_a_check_that_fails_names_the_thing_what_was_expected_and_what_came():
    with pytest.raises(ValueError, match=r"^lr must be positive and finite, got -1\.0$"):
        check("lr", -1.0, False, "positive and finite")
    with pytest.raises(ValueError, match="got ") as caught:
        check("images", list(range(10_000)), False, "few")
    assert len(str(caught.value)) < 100  # a long value is cut short


@pytest.mark.parametrize(
    ("value", "limits", "message"),
    [
        (0, {"low": 1, "whole": True}, "of at least 1, got 0"),
        (2.0, {"whole": True}, "must be a whole number of at least 0, got 2.0"),
        (True, {"whole": True}, "must be a whole number of at least 0, got True"),
        (True, {}, "must be a finite number of at least 0, got True"),
        ("2", {}, "must be a finite number of at least 0, got '2'"),
        (None, {}, "got None"),
        (math.nan, {}, "got nan"),
        (math.inf, {}, "got inf"),
        (4, {"low": 1, "high": 3, "whole": True}, "must be a whole number in 1..3, got 4"),
        (0.6, {"high": 0.5}, "must be a finite number in 0..0.5, got 0.6"),
    ],
)
def test_a_number_that_does_not_fit_is_named_with_its_limits(value, limits, message):
    with pytest.raises(ValueError) as caught:
        check_number("n", value, **limits)
    assert message in str(caught.value)


def test_a_wrong_choice_is_answered_with_the_close_ones_or_with_all():
    with pytest.raises(ValueError, match=r"^unknown mode 'offical'\. Did you mean 'official'\?$"):
        check_choice("mode", "offical", ("corrected", "official"))
    with pytest.raises(ValueError, match=r"^unknown mode 7\. Known are: corrected, official\.$"):
        check_choice("mode", 7, ("corrected", "official"))
