"""The explorer in a page that is no notebook."""

from __future__ import annotations

import pytest
from docutils.core import publish_parts
from docutils.parsers.rst import directives
from docutils.utils import SystemMessage

from ean_lib.runs.records import recorded_file
from ean_lib.widgets import SchemeExplorer
from ean_lib.widgets.sphinx_directive import SchemeExplorerDirective

directives.register_directive("scheme-explorer", SchemeExplorerDirective)


def page(text: str) -> str:
    settings = {"halt_level": 3, "report_level": 5, "raw_enabled": True}
    return publish_parts(text, writer_name="html5", settings_overrides=settings)["body"]


def test_a_page_holds_the_explorer_of_a_recorded_table():
    html = page(".. scheme-explorer:: cued_shapes\n   :name: intro\n   :scheme: 10-00-00\n   :show: numbers chart\n")
    table = recorded_file("explorer/cued_shapes.json")
    explorer = SchemeExplorer(table, name="intro", scheme="10-00-00", show=["numbers", "chart"])
    assert explorer.to_html() in html
    assert 'data-name="explorer"' in page(".. scheme-explorer:: cued_shapes")


@pytest.mark.parametrize("text", ["nothing", "cued_shapes\n   :scheme: 1", "cued_shapes\n   :show: everything"])
def test_a_mistake_stops_the_build(text):
    with pytest.raises(SystemMessage):
        page(f".. scheme-explorer:: {text}\n")
