"""A Sphinx directive that puts a scheme explorer into a page that is no notebook.

    ```{scheme-explorer} cued_shapes
    :name: intro
    :scheme: 10-00-00
    :show: numbers
    ```

The argument is a table that comes with the library, below ``recorded/explorer/``. The book's _config.yml lists this
module among its extensions, so the page is made from the table whenever the book is built.
"""

from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive, directives

from ean_lib.runs.records import recorded_file
from ean_lib.widgets.scheme_explorer import SchemeExplorer


class SchemeExplorerDirective(Directive):
    """The explorer of a recorded table; the options are those of `SchemeExplorer`."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {
        "name": directives.unchanged,
        "scheme": directives.unchanged,
        "show": directives.unchanged,
    }

    def run(self) -> list[nodes.Node]:
        options: dict[str, Any] = dict(self.options)
        if "show" in options:
            options["show"] = options["show"].split()
        try:
            table = recorded_file(f"explorer/{self.arguments[0]}.json")
            explorer = SchemeExplorer(table, **options)
        except ValueError as error:
            raise self.error(str(error)) from error
        return [nodes.raw("", explorer.to_html(), format="html")]


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("scheme-explorer", SchemeExplorerDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
