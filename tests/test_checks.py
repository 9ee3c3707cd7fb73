"""What was expected and what came: the sentences that answer a mistaken option."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest

from ean_lib.checks import Count, Fraction, check, check_choice, check_number, check_options


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


@dataclass
class Options:
    epochs: Count = 3
    warmup: Fraction | None = None
    blocks: tuple[Count, ...] = (1, 2)
    schedule: Literal["one_cycle", "step"] = "step"
    augment: bool = True


def test_options_that_are_what_their_types_say_pass():
    check_options(Options())
    check_options(Options(np.int64(1), 0, (), "one_cycle", False))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number in [1, inf), got 0"),
        ({"epochs": 1.0}, "epochs must be a whole number in [1, inf), got 1.0"),
        ({"epochs": True}, "epochs must be a whole number in [1, inf), got True"),
        ({"epochs": None}, "epochs must be a whole number in [1, inf), got None"),
        ({"warmup": 1}, "warmup must be a number in [0, 1), got 1"),
        ({"warmup": math.nan}, "warmup must be a number in [0, 1), got nan"),
        ({"warmup": "0.5"}, "warmup must be a number in [0, 1), got '0.5'"),
        ({"blocks": (2, 0)}, "blocks must be a whole number in [1, inf), got 0"),
        ({"schedule": "stop"}, "unknown schedule 'stop'. Did you mean 'step'?"),
        ({"augment": 1}, "augment must be True or False, got 1"),
    ],
)
def test_an_option_that_is_not_is_named_with_what_its_type_says(options, message):
    with pytest.raises(ValueError) as caught:
        check_options(Options(**options))
    assert str(caught.value) == message
