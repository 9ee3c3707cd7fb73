"""What the widgets share: beside a kernel they are anywidgets, and in a published page they need no kernel."""

import html
import json
import re
from typing import Any

import anywidget
import traitlets

from ean_lib.checks import check
from ean_lib.widgets.modules import JS

HOST = (JS / "host.js").read_text(encoding="utf-8")


class PageWidget(anywidget.AnyWidget):
    """A widget that is complete in itself in a page: its module, its state and a host of ten lines, in one text.

    A subclass has an ES module `_esm` with a function `render`, its style `_css`, and two methods: `describe()` says in
    a sentence what it shows, and `draw()` gives HTML that stands in its place until the module has started, and where
    scripts are off. Traits that are tagged `page` are what the module finds in a page.
    """

    name = traitlets.Unicode().tag(sync=True, page=True)  # it stands in the page's address and in a selector

    def __init__(self, name: str, **traits: Any) -> None:
        check_name(name)
        super().__init__(name=name, **traits)

    def page_state(self) -> dict[str, Any]:
        """What the module finds in a page."""
        return self.trait_values(page=True)

    def to_html(self) -> str:
        """The widget for a page without a kernel: all of it is in this text, and nothing is asked of any host."""
        state = json.dumps(self.page_state(), allow_nan=False, separators=(",", ":"), ensure_ascii=False)
        state = state.replace("<", "\\u003c")  # so that no string of the data can end the script element
        sentence = html.escape(f"{self.describe()} Where scripts run, it can be explored here.")
        return (
            f"<style>\n{self._css}</style>\n"
            f'<div class="ean-place" data-name="{self.name}">\n'
            f'<script type="application/json">{state}</script>\n'
            f"{self.draw()}\n<p>{sentence}</p>\n</div>\n"
            f'<script type="module">\n{self._esm}{HOST.replace("NAME", self.name)}</script>\n'
        )

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The widget for a live kernel; a page's form; and, where neither is shown, a sentence."""
        bundle, metadata = super()._repr_mimebundle_(**kwargs)
        return bundle | {"text/plain": self.describe(), "text/html": self.to_html()}, metadata


def check_name(name: str) -> None:
    """`ValueError` unless a widget's name can stand in an address and in a selector."""
    check("name", name, re.fullmatch("[A-Za-z0-9_-]+", name) is not None, "letters, digits, - and _")
