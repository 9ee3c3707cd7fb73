"""Interactive pieces of the book. They need anywidget, which `pip install ean-lib[book]` brings."""

try:
    from ean_lib.widgets.map_viewer import MapViewer
    from ean_lib.widgets.scheme_explorer import SchemeExplorer, compact_search
except ModuleNotFoundError as error:
    if error.name != "anywidget":
        raise
    raise ModuleNotFoundError("The widgets need anywidget: pip install anywidget", name="anywidget") from None

__all__ = ["MapViewer", "SchemeExplorer", "compact_search"]
