"""How a widget gets into a published page: its module, its state and a host of ten lines in one text, and no kernel."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from typing import Any

HOST = """
{
  const place = document.querySelector(".ean-place[data-name='NAME']:not([data-started])");
  const state = JSON.parse(place.querySelector("script").textContent);
  const listeners = {};
  const on = (event, listener) => (listeners[event] ??= []).push(listener);
  const off = (event, gone) => (listeners[event] = listeners[event].filter((listener) => listener !== gone));
  const call = (event) => (listeners[event] ?? []).forEach((listener) => listener());
  const set = (key, value) => ((state[key] = value), call(`change:${key}`));
  place.dataset.started = "";
  render({ model: { get: (key) => state[key], set, on, off, save_changes() {} }, el: place });
}
"""


def check_name(name: str) -> str:
    """The name, if it can stand in an address and a selector; `ValueError` otherwise."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"`name` must consist of letters, digits, - and _, but it is {name!r}.")
    return name


def page_form(state: Mapping[str, Any], module: Any, style: Any, picture: str, sentence: str) -> str:
    """The HTML of a widget for a page without a kernel: all of it is in this text, and nothing is asked of any host.

    Args:
        state: what the module asks its model for; `name` among it.
        module, style: the widget's ES module with a function `render`, and its CSS.
        picture: HTML that stands in the widget's place until it has started, and wherever scripts are off.
        sentence: stands below the picture, as plain text.
    """
    text = json.dumps(state, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":  # so that no string of the data can end the script element
        text = text.replace(character, f"\\u{ord(character):04x}")
    return (
        f"<style>\n{style}</style>\n"
        f'<div class="ean-place" data-name="{state["name"]}">\n'
        f'<script type="application/json">{text}</script>\n'
        f"{picture}\n<p>{html.escape(sentence)}</p>\n</div>\n"
        f'<script type="module">\n{module}{HOST.replace("NAME", state["name"])}</script>\n'
    )
