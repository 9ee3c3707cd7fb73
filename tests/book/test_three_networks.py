"""The page of three networks does what it says: its code is run, part after part."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "book" / "three_networks.md"


@pytest.mark.slow
def test_the_code_of_the_page_runs(capsys: pytest.CaptureFixture) -> None:
    parts = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(parts) == 5
    names: dict[str, object] = {}
    for number, part in enumerate(parts):
        exec(compile(part, f"part {number} of {PAGE.name}", "exec"), names)
    assert "6 residual branches in stages of 1, 2, 1, 2" in capsys.readouterr().out
