"""The book's table of networks that attention can be plugged into is what plug gives."""

import pytest

from tools.plug_table import HEAD, PAGE, names, row


def test_the_page_has_a_row_for_each_network() -> None:
    text = PAGE.read_text()
    assert text.startswith(HEAD)
    assert len(names()) >= 25
    rows = text.removeprefix(HEAD).splitlines()
    assert [line.split(" | ")[0].removeprefix("| ") for line in rows] == names()
    assert " NO " not in text


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_a_row_of_the_page_is_what_plug_gives(name: str) -> None:
    assert row(name) in PAGE.read_text().splitlines()
