"""What was expected and what came: the sentences that answer a mistaken option."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import numpy as np
import pytest
import torch
from annotated_types import Interval

from ean_lib.checks import Count, Fraction, Positive, check, check_choice, check_number, check_odd, check_options


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


@dataclass(frozen=True)
class Options:
    epochs: Count = 3
    warmup: Fraction | None = None
    gamma: Annotated[float, Interval(gt=0, le=1)] = 1
    lr: Positive = 0.1
    name: str = ""
    width: int | None = None
    blocks: tuple[Count, ...] = (1, 2)
    schedule: Literal["one_cycle", "step"] = "step"
    augment: bool = True


def test_options_that_are_what_their_types_say_pass():
    check_options(Options())
    check_options(Options(2, 0, 1, 3, "a", 7, (), "one_cycle", False))


NUMBERS_OF_OTHERS = {
    "numpy": (np.int64(4), np.float32(0.5), np.array(8), np.array([2, 1]), np.bool_(False)),
    "torch": (
        torch.tensor(4),
        torch.tensor(0.5).bfloat16(),
        torch.tensor(8),
        torch.tensor([2, 1]),
        torch.tensor(False),
    ),
    "lists": (4, 0.5, 8, [np.int16(2), torch.tensor(1)], False),
}


@pytest.mark.parametrize("kind", NUMBERS_OF_OTHERS)
def test_numbers_of_numpy_and_torch_are_taken_like_pythons_and_stored_as_numbers(kind):
    epochs, warmup, width, blocks, augment = NUMBERS_OF_OTHERS[kind]
    options = Options(epochs=epochs, warmup=warmup, width=width, blocks=blocks, augment=augment)
    check_options(options)
    stored = {"epochs": 4, "warmup": 0.5, "width": 8, "blocks": [2, 1], "augment": False}
    assert json.loads(json.dumps(asdict(options))) == asdict(Options()) | stored
    assert options == Options(4, 0.5, width=8, blocks=(2, 1), augment=False)


@pytest.mark.parametrize("value", [np.int64(3), torch.tensor(3), np.array(3)])
def test_a_checked_number_is_pythons_own(value):
    assert type(check_number("n", value, whole=True)) is int
    check_odd("kernel", value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"epochs": 1.0}, "epochs must be a whole number of at least 1, got 1.0"),
        ({"epochs": True}, "epochs must be a whole number of at least 1, got True"),
        ({"epochs": None}, "epochs must be a whole number of at least 1, got None"),
        ({"warmup": 1}, "warmup must be a number of at least 0 and below 1, got 1"),
        ({"warmup": math.nan}, "warmup must be a number of at least 0 and below 1, got nan"),
        ({"warmup": "0.5"}, "warmup must be a number of at least 0 and below 1, got '0.5'"),
        ({"blocks": (2, 0)}, "blocks must be a whole number of at least 1, got 0"),
        ({"blocks": "22"}, "blocks must be a tuple, got '22'"),
        ({"blocks": 2}, "blocks must be a tuple, got 2"),
        ({"blocks": np.array([[1, 2]])}, "blocks must be a tuple, got array([[1, 2]])"),
        ({"gamma": 0}, "gamma must be a number above 0 and at most 1, got 0"),
        ({"lr": math.inf}, "lr must be a finite number above 0, got inf"),
        ({"lr": torch.tensor([0.1])}, "lr must be a finite number above 0, got tensor([0.1000])"),
        ({"lr": 10**400}, "lr must be a finite number above 0, got 1000"),
        ({"name": None}, "name must be a text, got None"),
        ({"width": 8.0}, "width must be a whole number, got 8.0"),
        ({"schedule": np.array(["stop", "step"])}, "unknown schedule array(['stop"),
        ({"schedule": "stop"}, "unknown schedule 'stop'. Did you mean 'step'?"),
        ({"augment": 1}, "augment must be True or False, got 1"),
    ],
)
def test_an_option_that_is_not_is_named_with_what_its_type_says(options, message):
    with pytest.raises(ValueError) as caught:
        check_options(Options(**options))
    assert str(caught.value).startswith(message)
