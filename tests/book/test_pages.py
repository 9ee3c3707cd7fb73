"""The built pages: no warning, nothing missing, nothing asked of another host, readable on a phone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup

pytestmark = pytest.mark.browser
BOOK = Path(__file__).resolve().parent.parent.parent / "book"


def names_in(toc: dict) -> list[str]:
    """Every page that a table of contents names, in order."""
    own = [toc[key] for key in ("root", "file") if key in toc]
    parts = [entry for key in ("parts", "chapters", "sections") for entry in toc.get(key, [])]
    return own + [name for part in parts for name in names_in(part)]


PAGES = names_in(yaml.safe_load((BOOK / "_toc.yml").read_text()))
every_page = pytest.mark.parametrize("name", PAGES)


def soup_of(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def open_page(page, html: Path, name: str) -> None:
    """Load a page and wait until its formulas are set."""
    page.goto((html / f"{name}.html").as_uri())
    # The promise of MathJax is there only after its start; on a busy machine that is later than the page's load event.
    started = "!document.querySelector('span.math, div.math') || document.querySelector('mjx-container')"
    page.wait_for_function(f"() => {started}")
    page.evaluate("() => window.MathJax?.startup?.promise")


def test_the_book_builds_without_a_warning(built):
    assert built.exit_code == 0, built.log[-4000:]
    assert "WARNING" not in built.log


def test_every_chapter_is_in_the_table_of_contents():
    sources = {path.stem for path in BOOK.glob("*.ipynb")} | {path.stem for path in BOOK.glob("*.md")}
    assert sources == set(PAGES)


@every_page
def test_a_page_exists_and_weighs_less_than_a_megabyte(built, name):
    """The page with its own pictures; the theme and MathJax are shared by all pages."""
    path = built.html / f"{name}.html"
    pictures = {path.parent / img["src"] for img in soup_of(path).find_all("img", src=True) if "_images" in img["src"]}
    assert path.stat().st_size + sum(picture.stat().st_size for picture in pictures) < 1_000_000


@every_page
def test_every_link_of_a_page_leads_somewhere(built, name):
    path = built.html / f"{name}.html"
    broken = []
    for link in soup_of(path).find_all("a", href=True):
        target = urlsplit(link["href"])
        if target.scheme or target.netloc:
            continue
        other = path.parent / unquote(target.path) if target.path else path
        if not other.is_file():
            broken.append(link["href"])
        elif target.fragment and other.suffix == ".html":
            fragment = unquote(target.fragment)
            if not soup_of(other).find(attrs={"id": fragment}) and fragment not in {"", "__top"}:
                broken.append(link["href"])
    assert not broken


@every_page
def test_a_page_needs_no_kernel_and_no_other_host(built, name):
    text = (built.html / f"{name}.html").read_text(encoding="utf-8")
    for word in ("require.min.js", "requirejs", "unpkg", "jsdelivr", "cdnjs", "thebe", "html-manager", "googleapis"):
        assert word not in text.lower(), word
    loaded = [
        tag.get("src") or tag.get("href") for tag in soup_of(built.html / f"{name}.html")(["script", "link", "img"])
    ]
    assert not [address for address in loaded if address and re.match(r"(https?:)?//", address)]


@every_page
def test_a_page_shows_without_a_network(built, page, name):
    """Nothing is asked of another host, nothing fails, every formula and picture is there."""
    open_page(page, built.html, name)
    sources = soup_of(built.html / f"{name}.html").select("span.math, div.math")
    assert page.locator("mjx-container").count() >= len(sources)
    assert page.locator("mjx-merror").count() == 0
    pictures = page.evaluate("() => [...document.images].map(i => [i.getAttribute('src'), i.naturalWidth, i.alt])")
    assert [src for src, width, _ in pictures if not width] == []
    assert [src for src, _, alt in pictures if not alt.strip()] == []
    assert page.outside == []
    assert page.problems == []


@every_page
@pytest.mark.parametrize("width", [390, 1280])
def test_a_page_does_not_scroll_sideways(built, page, name, width):
    page.set_viewport_size({"width": width, "height": 844})
    open_page(page, built.html, name)
    overflow = page.evaluate("() => document.documentElement.scrollWidth - window.innerWidth")
    assert overflow <= 0


@every_page
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_axe_finds_no_serious_violation(built, page, name, mode):
    page.emulate_media(color_scheme=mode)
    open_page(page, built.html, name)
    assert page.evaluate("() => document.documentElement.dataset.theme") == mode
    # The colours of the mode itself, not those on the way to it.
    page.add_style_tag(content="*, *::before, *::after { transition: none !important; animation: none !important; }")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    found = Axe().run(page).response["violations"]
    serious = [
        f"{violation['id']}: {node['target']} {node['failureSummary']}"
        for violation in found
        if violation["impact"] in {"serious", "critical"}
        for node in violation["nodes"]
    ]
    assert not serious, json.dumps(serious, indent=1)


@pytest.mark.parametrize(
    "name", ["intro", "02_sharing", "03_supernet", "04_controller", "05_sparse_retrain", "08_better_than_chance"]
)
def test_a_page_has_the_scheme_explorer_and_a_question(built, page, name):
    open_page(page, built.html, name)
    block = page.locator(".ean-explorer [role=switch]").first
    before = block.get_attribute("aria-checked")
    block.click()
    assert {before, block.get_attribute("aria-checked")} == {"true", "false"}
    assert page.locator(".ean-explorer").count() == 1
    assert page.get_by_text(re.compile("[Qq]uestions? to play with")).count() == 1
    page.wait_for_function("() => location.hash.startsWith('#scheme-')")
    assert page.problems == []


def test_figures_are_numbered_across_the_book(built):
    numbers = []
    for name in PAGES:
        captions = soup_of(built.html / f"{name}.html").select("figcaption .caption-number")
        numbers += [caption.get_text(strip=True) for caption in captions]
    assert numbers and len(numbers) == len(set(numbers))


def test_search_and_copy_buttons_are_there(built, page):
    open_page(page, built.html, PAGES[0])
    assert page.locator(".search-button__button").count() > 0
    assert page.locator("button.copybtn").count() > 0
