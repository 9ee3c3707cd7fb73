"""Search: which blocks should be connected? The methods, EAN's controller, and what a truth table says of a search."""

from ean_lib.search.methods import METHODS, SearchConfig, SearchResult, search

__all__ = ["METHODS", "SearchConfig", "SearchResult", "search"]
