"""The scheme explorer in a headless Chromium without a network, and its Python side."""

from __future__ import annotations

import http.server
import json
import random
import statistics
import threading
from collections.abc import Iterator
from functools import partial
from math import nan
from pathlib import Path

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from handwritten import PreNet, Tangle, handwritten
from tiny import STAGES, tiny_data, tiny_net

from ean_lib import Scheme, Scorer, SearchConfig, search
from ean_lib.learning.measure import count_macs, count_parameters
from ean_lib.search.controller import Controller, ControllerConfig
from ean_lib.widgets import SchemeExplorer, compact_search

ROOT = Path(__file__).resolve().parent.parent.parent
TABLES = sorted((ROOT / "ean_lib" / "recorded" / "explorer").glob("*.json"))
SMALL = (2, 2, 2)
browser = pytest.mark.browser


def value(scheme: Scheme) -> float:
    """An accuracy: the first stage matters, late connections hurt a little."""
    early, late = any(scheme.bits[:2]), sum(scheme.bits[2:])
    both = scheme.bits[0] and scheme.bits[1]
    return round(80 + 15 * early + 0.5 * both - 0.37 * late + 0.01 * scheme.connected, 2)


def small_table() -> dict:
    """All 2^6 schemes, three of them trained alone, and a recorded search."""
    schemes = list(Scheme.all_of(SMALL))
    found = search(lambda asked: [value(s) for s in asked], SMALL, SearchConfig(steps=40))
    return {
        "title": "a made-up network",
        "attention": "se",
        "stages": list(SMALL),
        "supernet": [value(s) for s in schemes],
        "extra_parameters": [162 * any(s.bits[:2]) + 580 * any(s.bits[4:]) for s in schemes],
        "extra_macs": [128 * s.connected for s in schemes],
        "alone": {"00-00-00": [81.5, 0.25, 3], "10-00-00": [96.125, None, 1], "11-11-11": [95, 0.5, 3]},
        "time": {"00-00-00": [-0.0123, -0.02, 0.015], "11-11-11": [0.25, None, None]},
        "parameters": 77000,
        "macs": 1000000,
        "found": str(found.scheme),
        "search": compact_search(found),
        "note": "made up",
    }


@pytest.fixture(scope="module")
def table() -> dict:
    return small_table()


def page_of(*explorers: SchemeExplorer, theme: str = "light") -> str:
    body = "\n".join(explorer.to_html() for explorer in explorers)
    head = '<meta charset="utf-8"><title>test</title><link rel="icon" href="data:,">'
    head += '<meta name="viewport" content="width=device-width">'
    start = f'<!doctype html><html lang="en" data-theme="{theme}"><head>{head}</head>'
    return f"{start}<body><main>{body}</main></body></html>"


@pytest.fixture
def show(page, tmp_path) -> Iterator:
    """Open explorers in one page from file://; at the end there were no errors and no requests."""

    def open_page(*explorers: SchemeExplorer, theme: str = "light", fragment: str = ""):
        path = tmp_path / "page.html"
        path.write_text(page_of(*explorers, theme=theme), encoding="utf-8")
        page.goto("about:blank")
        page.goto(path.as_uri() + fragment)
        page.wait_for_selector(".ean-explorer .x-block")
        return page

    yield open_page
    assert page.outside == []
    assert page.problems == []


def blocks(page, number: int = 0):
    return page.locator(".ean-explorer").nth(number).locator("[role=switch]")


def shown(page, number: int = 0) -> str:
    """The scheme that the toggles of an explorer say."""
    return "".join("1" if state == "true" else "0" for state in page.evaluate(
        "n => [...document.querySelectorAll('.ean-explorer')[n].querySelectorAll('[role=switch]')]"
        ".map(block => block.getAttribute('aria-checked'))", number))  # fmt: skip


def read_cards(page) -> dict[str, tuple[str, str]]:
    """What stands under each label of the cards: the value and its note."""
    return page.evaluate(
        "() => Object.fromEntries([...document.querySelectorAll('.ean-explorer dl > div')].map(cell =>"
        " [cell.children[0].textContent, [cell.children[1].textContent, cell.children[2].textContent]]))"
    )


# The page


@browser
def test_a_click_toggles_a_block_and_everything_follows(show, table):
    page = show(SchemeExplorer(table, scheme="10-00-00"))
    first = blocks(page).first
    assert first.get_attribute("aria-label") == "stage 1, block 1, connected"
    assert read_cards(page)["Connected blocks"] == ["1 of 6", "sparsity 0.83"]
    first.click()
    assert first.get_attribute("aria-label") == "stage 1, block 1, not connected"
    cards = read_cards(page)
    assert cards["Connection scheme"][0] == "00-00-00"
    assert cards["Accuracy in the supernet"][0] == "80.00 %"
    assert cards["Accuracy trained alone"] == ["81.50 ± 0.25 %", "mean ± std of 3 runs"]
    assert cards["Extra inference time"] == ["−1.2 %", "over the backbone, half of the turns between −2.0 % and +1.5 %"]
    assert cards["Extra parameters"] == ["+0", "0.0 % of the backbone's 77,000"]
    blocks(page).last.click()
    cards = read_cards(page)
    assert cards["Connection scheme"][0] == "00-00-01"
    assert cards["Accuracy trained alone"] == ["not measured", ""]
    assert cards["Extra inference time"] == ["not measured", ""]
    assert "stage 3, block 2 is connected" in page.locator(".x-hint").inner_text().lower()


@browser
def test_the_keys_move_and_toggle(show, table):
    page = show(SchemeExplorer(table, scheme="00-00-00"))
    page.keyboard.press("Tab")
    focused = "() => document.activeElement.getAttribute('aria-label')"
    assert page.evaluate(focused) == "stage 1, block 1, not connected"
    for key, label in (
        ("ArrowRight", "stage 1, block 2"),
        ("ArrowDown", "stage 2, block 1"),
        ("ArrowLeft", "stage 1, block 2"),
        ("ArrowUp", "stage 1, block 1"),
        ("ArrowLeft", "stage 1, block 1"),
        ("End", "stage 3, block 2"),
        ("ArrowRight", "stage 3, block 2"),
        ("Home", "stage 1, block 1"),
    ):
        page.keyboard.press(key)
        assert page.evaluate(focused) == f"{label}, not connected"
    page.keyboard.press("Space")
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    assert shown(page) == "100001"
    ring = "() => getComputedStyle(document.activeElement.querySelector('.x-ring')).stroke"
    assert page.evaluate(ring) not in ("none", "")
    page.keyboard.press("Tab")  # only one block is reached by tab, so the next stop is a button
    assert page.evaluate("() => document.activeElement.textContent") == "None"


@browser
@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_the_numbers_of_50_random_schemes_equal_the_table(show, path):
    table = json.loads(path.read_text())
    page = show(SchemeExplorer(path))
    total, ranked = sum(table["stages"]), sorted(table["supernet"], reverse=True)
    indices = random.Random(0).sample(range(2**total), 50)
    schemes = [str(Scheme.parse([bit == "1" for bit in f"{i:0{total}b}"], table["stages"])) for i in indices]
    seen = page.evaluate(
        """schemes => schemes.map(scheme => {
            [...scheme.replaceAll("-", "")].forEach((bit, i) => {
                const block = document.querySelectorAll("[role=switch]")[i];
                const on = block.getAttribute("aria-checked") === "true";
                if (on !== (bit === "1")) block.dispatchEvent(new MouseEvent("click", { bubbles: true }));
            });
            return [...document.querySelectorAll("dl > div")].map(cell => [...cell.children].map(e => e.textContent));
        })""",
        schemes,
    )
    for index, text, cells in zip(indices, schemes, seen, strict=True):
        cards = {label: (large, small) for label, large, small in cells}
        accuracy = table["supernet"][index]
        assert cards["Connection scheme"][0] == text
        assert cards["Connected blocks"][0] == f"{text.count('1')} of {total}"
        rank = f"rank {ranked.index(accuracy) + 1} of {len(ranked)}"
        assert cards["Accuracy in the supernet"] == (f"{accuracy:.2f} %", rank)
        assert cards["Extra parameters"][0] == f"+{table['extra_parameters'][index]:,}"
        assert cards["Extra multiply–adds per image"][0] == f"+{table['extra_macs'][index]:,}"
        alone, time = cards["Accuracy trained alone"][0], cards["Extra inference time"][0]
        assert alone.startswith(f"{table['alone'][text][0]:.2f}") if text in table["alone"] else alone == "not measured"
        assert (time == "not measured") == (text not in table["time"])


@browser
def test_a_click_in_the_chart_and_the_slider_of_ranks_choose_a_scheme(show, table):
    page = show(SchemeExplorer(table, scheme="00-00-00"))
    assert page.locator("circle.x-any").count() == 64
    full = page.locator("circle.x-any").last  # the last of the table: 11-11-11, alone in its column
    full.hover()
    assert "11-11-11" in page.locator(".x-card p.x-note").inner_text()
    full.click(force=True)
    assert shown(page) == "111111"
    slider = page.get_by_label("Walk through the ranks")
    slider.focus()
    page.keyboard.press("Home")
    best = max(Scheme.all_of(SMALL), key=value)
    assert shown(page) == str(best).replace("-", "")
    assert "rank 1 of 64" in slider.get_attribute("aria-valuetext")
    page.keyboard.press("ArrowRight")
    assert read_cards(page)["Accuracy in the supernet"][1] == "rank 2 of 64"
    page.get_by_role("combobox", name="against").select_option("time")
    assert page.locator("circle.x-any").count() == 2
    page.get_by_role("combobox", name="Show").select_option("alone")
    assert page.locator("circle.x-any").count() == 2


@browser
def test_the_pareto_front_is_that_of_the_table(show, table):
    page = show(SchemeExplorer(table))
    best = -1.0
    front = 0
    for k in range(7):
        top = max(value(s) for s in Scheme.all_of(SMALL) if s.connected == k)
        front += top > best
        best = max(best, top)
    assert page.locator("circle.x-front").count() == front


@browser
def test_the_ready_made_schemes(show, table):
    page = show(SchemeExplorer(table | {"published": "01-10-01"}, scheme="10-00-00"))

    def press(name):
        page.get_by_role("button", name=name).click()
        return shown(page)

    assert press("Full") == "111111"
    assert press("None") == "000000"
    assert press("Found by the search") == table["found"].replace("-", "")
    assert press("Published") == "011001"
    assert press("Random, equally sparse") != "011001"
    assert shown(page).count("1") == 3
    best = max((s for s in Scheme.all_of(SMALL) if s.connected == 3), key=value)
    assert press("Best with 3 connected") == str(best).replace("-", "")
    small = show(SchemeExplorer(table, show=["numbers"]))
    assert small.get_by_role("button", name="Published").count() == 0
    assert small.locator("svg.x-chart").count() == 0


@browser
def test_a_recorded_search_is_replayed(show, table):
    record = table["search"]
    page = show(SchemeExplorer(table))
    slider = page.get_by_label("step of the search")

    def bars():
        return [float(text) for text in page.locator(".x-bar span").all_inner_texts()]

    def samples():
        return page.locator(".x-two code").all_inner_texts()

    for step in (0, 7, 39):
        slider.fill(str(step))
        assert bars() == pytest.approx([p / 1000 for p in record["probabilities"][step]], abs=0.0051)
        assert samples() == record["schemes"][step]
    page.get_by_role("button", name="To the end").click()
    last = len(record["schemes"])
    assert page.get_by_text(f"step {last} of {last}").is_visible()
    assert "No scheme is better." in page.locator(".x-verdict").inner_text()
    page.get_by_role("button", name="Play").click()  # from the end it starts anew
    page.wait_for_function("() => /^step ([4-9]|..) of/.test(document.querySelector('output').textContent)")
    page.get_by_role("button", name="Pause").click()
    page.locator(".x-two code").first.click()
    assert shown(page) == samples()[0].replace("-", "")


@browser
def test_a_search_in_the_page_reaches_the_best_of_the_table(show, table):
    page = show(SchemeExplorer(table))
    page.get_by_label("a new one in this page").check()
    verdict = page.locator(".x-verdict")
    assert "Not found yet" in verdict.inner_text()
    page.get_by_role("button", name="To the end").click()
    assert "No scheme is better." in verdict.inner_text()
    best = max(Scheme.all_of(SMALL), key=lambda s: value(s) + 2 * s.sparsity)
    assert f"best so far is {best}," in verdict.inner_text()
    first = verdict.inner_text()
    page.get_by_label("Seed").fill("1")
    page.get_by_label("Seed").press("Enter")
    page.get_by_role("button", name="To the end").click()
    assert "No scheme is better." in verdict.inner_text()
    page.get_by_label("Seed").fill("0")
    page.get_by_label("Seed").press("Enter")
    page.get_by_role("button", name="To the end").click()
    assert verdict.inner_text() == first  # the same seed, the same search
    page.get_by_label("bonus for novel schemes").uncheck()
    page.get_by_label("Worth of sparsity").fill("20")
    page.get_by_role("button", name="To the end").click()
    best = max(Scheme.all_of(SMALL), key=lambda s: (value(s) + 20 * s.sparsity, -s.connected))
    assert f"best so far is {best}," in verdict.inner_text()
    assert best.connected == 1  # the second connection is no longer worth its price


@browser
def test_a_search_in_the_page_reaches_the_best_of_the_recorded_supernet(show):
    """All 2^6 schemes of cued_shapes, and the settings that a reader finds there."""
    path = next(path for path in TABLES if path.stem == "cued_shapes")
    table = json.loads(path.read_text())
    page = show(SchemeExplorer(path, show=["search"]))
    page.get_by_label("a new one in this page").check()
    page.get_by_role("button", name="To the end").click()
    schemes = zip(Scheme.all_of(table["stages"]), table["supernet"], strict=True)
    best, _ = max(schemes, key=lambda pair: pair[1] + table["search"]["lambda_spa"] * pair[0].sparsity)
    text = page.locator(".x-verdict").inner_text()
    assert f"best so far is {best}," in text and "No scheme is better." in text


@browser
def test_the_replay_and_the_search_in_the_page_weigh_accuracy_as_python_does(show):
    """λ_val of 0.1: a point of accuracy is worth less than a connection, so another scheme is best."""
    schemes = list(Scheme.all_of(SMALL))
    config = SearchConfig(lambda_val=0.1, lambda_spa=20, steps=40)
    found = search(lambda asked: [value(s) for s in asked], SMALL, config)
    table = {"stages": list(SMALL), "supernet": [value(s) for s in schemes]}
    page = show(SchemeExplorer(table, search=found, show=["search"]))
    slider, verdict = page.get_by_label("step of the search"), page.locator(".x-verdict")
    for step in (0, 3, 39):
        slider.fill(str(step))
        record = found.history[step]
        expected = f"best so far is {record['best_scheme']}, objective {record['best_objective']:.2f} = 0.1 × accuracy"
        assert expected in verdict.inner_text()
    best = min(schemes, key=lambda s: (-config.objective(s, value(s)), s.connected, str(s)))
    assert best != max(schemes, key=value)
    page.get_by_label("a new one in this page").check()
    page.get_by_role("button", name="To the end").click()
    assert f"best so far is {best}, objective {config.objective(best, value(best)):.2f}" in verdict.inner_text()
    assert "No scheme is better." in verdict.inner_text()


@browser
def test_among_equal_schemes_the_page_ends_with_the_one_that_python_ends_with(show):
    """Every scheme is worth the same in steps of two connections: fewest connections first, then the first text."""
    worth = {s: 90.0 + (s.connected + 1) // 2 for s in Scheme.all_of(SMALL)}
    found = search(lambda asked: [worth[s] for s in asked], SMALL, SearchConfig(lambda_spa=0, steps=60))
    page = show(SchemeExplorer({"stages": list(SMALL)}, search=found, show=["search"]))
    slider, verdict = page.get_by_label("step of the search"), page.locator(".x-verdict")
    for step in range(60):
        slider.fill(str(step))
        assert f"best so far is {found.history[step]['best_scheme']}," in verdict.inner_text()


@browser
def test_a_network_of_54_blocks_is_drawn_and_its_search_replayed(show):
    """Beyond 53 blocks a scheme is no number that JavaScript could hold."""
    stages = (18, 18, 18)  # ResNet-110 and ResNet-164
    found = search(lambda asked: [50.0 + s.connected for s in asked], stages, SearchConfig(steps=12))
    full = Scheme.full(stages)
    page = show(SchemeExplorer({"stages": list(stages), "supernet": {str(full): 104.0}}, search=found, scheme=full))
    assert blocks(page).count() == 54
    assert shown(page) == "1" * 54
    assert read_cards(page)["Connection scheme"][0] == str(full)
    assert read_cards(page)["Accuracy in the supernet"][0] == "104.00 %"
    slider = page.get_by_label("step of the search")
    for step, record in enumerate(found.history[:12]):
        slider.fill(str(step))
        assert page.locator(".x-two code").all_inner_texts() == record["schemes"]
        assert f"best so far is {record['best_scheme']}," in page.locator(".x-verdict").inner_text()
    blocks(page).last.click()
    assert shown(page) == "1" * 53 + "0"


@browser
@pytest.mark.parametrize("lambda_rnd", [0.0, 0.1])
def test_the_step_in_the_page_equals_ean_libs(page, lambda_rnd):
    """Forty steps on the same random numbers, replay included: the same logits to 1e-9."""
    controller = Controller(6, ControllerConfig(lambda_rnd=lambda_rnd), seed=3)
    networks = (controller.novelty.fixed, controller.novelty.learned)
    weights = [torch.cat([p.detach().flatten() for p in net.parameters()]).tolist() for net in networks]
    uniform, picks, logits, probabilities = [], [], [], []
    twin = torch.Generator()
    for step in range(40):
        twin.set_state(controller.sampling.get_state())
        uniform += torch.rand(3, 6, generator=twin, dtype=torch.float64).flatten().tolist()
        if step >= 10:
            twin.set_state(controller.replaying.get_state())
            picks.append(int(torch.randint(min(step + 1, 30), (), generator=twin)))
        schemes = controller.sample()
        values = [value(Scheme(tuple(row), SMALL)) + 2 * (1 - sum(row) / 6) for row in schemes.tolist()]
        probabilities.append(controller.probabilities().tolist())
        controller.update(schemes, torch.tensor(values, dtype=torch.float64))
        logits.append(controller.logits().tolist())
    page.goto("about:blank")
    mine = page.evaluate(
        """async ({ source, uniform, picks, fixed, learned, lambdaRnd, values }) => {
            const module = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
            const { Controller } = await import(module);
            const options = { uniform: () => uniform.shift(), pick: () => picks.shift(), weights: { fixed, learned } };
            const controller = new Controller(6, { ...options, lambdaRnd });
            return Array.from({ length: 40 }, () => {
                const schemes = controller.sample();
                const objective = (s) => values[parseInt(s.join(""), 2)] + 2 * (1 - s.reduce((a, b) => a + b) / 6);
                const record = controller.update(schemes, schemes.map(objective));
                return [record.probabilities, controller.logits()];
            });
        }""",
        {
            "source": SchemeExplorer._esm,
            "uniform": uniform,
            "picks": picks,
            "fixed": weights[0],
            "learned": weights[1],
            "lambdaRnd": lambda_rnd,
            "values": [value(s) for s in Scheme.all_of(SMALL)],
        },
    )
    # Where the advantages cancel, a gradient is the rounding of a sum, 1e-16 or so; Adam divides it by its epsilon,
    # 1e-8, so that what differs between two orders of summation becomes a few 1e-9 of a logit.
    torch.testing.assert_close([m[1] for m in mine], logits, rtol=0, atol=1e-7)
    torch.testing.assert_close([m[0] for m in mine], probabilities, rtol=0, atol=1e-7)
    assert max(abs(z) for z in logits[-1]) > 1  # it learned something


@browser
def test_the_address_holds_the_scheme_and_brings_it_back(show, table):
    explorer = SchemeExplorer(table, name="one", scheme="10-00-00")
    other = SchemeExplorer(table, name="two", scheme="11-11-11")
    page = show(explorer, other, fragment="#some-section")
    assert page.url.endswith("#some-section")  # looking changes nothing
    blocks(page, 0).nth(3).click()
    blocks(page, 1).nth(0).click()
    page.wait_for_url("**#scheme-one=10-01-00&scheme-two=01-11-11")
    page.reload()
    page.wait_for_selector(".ean-explorer .x-block")
    assert (shown(page, 0), shown(page, 1)) == ("100100", "011111")
    page.evaluate("() => { location.hash = '#scheme-two=00-00-11' }")
    page.wait_for_function("() => document.querySelectorAll('[aria-checked=true]').length === 4")
    assert (shown(page, 0), shown(page, 1)) == ("100100", "000011")
    for broken in ("#scheme-one=1", "#scheme-one=<b>", "#scheme-one=100100", "#%E0%A4%A"):
        show(explorer, fragment=broken)
        assert shown(page) == "100000"
    show(explorer, fragment="#scheme-one=01-01-01")
    assert shown(page) == "010101"
    assert page.get_by_role("link", name="Link").get_attribute("href") == "#scheme-one=01-01-01"


@browser
def test_two_explorers_on_a_page_do_not_disturb_each_other(show, table):
    one, two = SchemeExplorer(table, name="one", scheme="10-00-00"), SchemeExplorer(TABLES[0], name="two")
    page = show(one, two)
    before = shown(page, 1)
    blocks(page, 0).nth(1).click()
    assert (shown(page, 0), shown(page, 1)) == ("110000", before)
    page.locator(".ean-explorer").nth(1).get_by_role("button", name="Full").click()
    assert shown(page, 0) == "110000"
    page.locator(".ean-explorer").nth(0).get_by_label("a new one in this page").check()
    assert page.locator(".ean-explorer").nth(1).get_by_label("the recorded search").is_checked()


@browser
def test_strings_of_the_data_do_not_become_html(show, table):
    hostile = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>\u2028'\"&amp;"
    page = show(SchemeExplorer(table | {"title": hostile, "note": hostile, "attention": hostile}, scheme="10-00-00"))
    for place in (".x-head span", ".x-source"):
        assert page.locator(place).evaluate("element => element.textContent") == hostile
    assert page.locator("img").count() == 0
    assert page.evaluate("() => window.hacked") is None
    static = SchemeExplorer(table | {"title": "<img>", "attention": "<img>"}).to_html()
    assert "<img" not in static[: static.index('<script type="module">')]


@browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(show, table, theme):
    page = show(SchemeExplorer(table, scheme="10-01-00"), theme=theme)
    page.get_by_label("a new one in this page").check()
    page.evaluate(f"() => document.body.style.background = '{'#121417' if theme == 'dark' else '#fff'}'")
    violations = Axe().run(page).response["violations"]
    found = [f"{v['id']}: {node['target']} {node['failureSummary']}" for v in violations for node in v["nodes"]]
    # The heading of a page is not the explorer's to give.
    assert [line for line in found if not line.startswith("page-has-heading-one")] == []


@browser
@pytest.mark.parametrize("width", [360, 390, 1280])
def test_it_fits_the_screen_and_a_finger(show, page, table, width):
    page.set_viewport_size({"width": width, "height": 800})
    large = SchemeExplorer({"stages": [3, 4, 6, 3], "attention": "sge"}, name="large", show=["numbers"])
    show(SchemeExplorer(table), SchemeExplorer(TABLES[0], name="other"), large)
    assert page.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0
    sizes = page.evaluate(
        "() => [...document.querySelectorAll('[role=switch], button, select, .ean-explorer input, .x-row > a')]"
        ".filter(e => e.checkVisibility()).map(e => e.closest('label.x-choice') ?? e)"
        ".map(e => e.getBoundingClientRect()).map(box => [box.width, box.height])"
    )
    assert len(sizes) > 30
    assert min(min(size) for size in sizes) >= 24


@browser
@pytest.mark.parametrize("path", [path for path in TABLES if "cifar" in path.stem], ids=lambda path: path.stem)
def test_an_update_takes_less_than_16_ms_at_512_schemes(show, path):
    page = show(SchemeExplorer(path))
    for _ in range(3):  # the machine may be busy with something else
        median = statistics.median(page.evaluate(
            """() => {
                const blocks = document.querySelectorAll("[role=switch]");
                return Array.from({ length: 200 }, (_, i) => {
                    const start = performance.now();
                    blocks[(i * 7) % blocks.length].dispatchEvent(new MouseEvent("click", { bubbles: true }));
                    document.documentElement.getBoundingClientRect();
                    return performance.now() - start;
                });
            }"""))  # fmt: skip
        if median < 16:
            return
    pytest.fail(f"the median of 200 updates is {median:.1f} ms")


@browser
def test_it_works_from_a_server_whose_network_is_then_cut(page, table, tmp_path):
    (tmp_path / "page.html").write_text(page_of(SchemeExplorer(table, scheme="10-00-00")), encoding="utf-8")
    handler = partial(QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/page.html"
        page.context.set_offline(False)
        page.goto(address)
        page.context.set_offline(True)
        server.shutdown()
    blocks(page).nth(2).click()
    assert read_cards(page)["Connection scheme"][0] == "10-10-00"
    page.get_by_role("button", name="Play").click()
    page.wait_for_timeout(200)
    assert page.outside == [address]
    assert page.problems == []


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass


@browser
def test_reduced_motion_is_respected(chromium, table, tmp_path):
    (tmp_path / "page.html").write_text(page_of(SchemeExplorer(table)), encoding="utf-8")
    context = chromium.new_context(offline=True, reduced_motion="reduce")
    page = context.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    page.evaluate("() => document.querySelector('.ean-explorer').classList.add('x-waiting')")
    moving = "() => document.getAnimations().length"
    assert page.evaluate(moving) == 0
    page.get_by_role("button", name="Play").click()
    page.wait_for_timeout(300)
    assert page.get_by_text("step 1 of").is_visible()  # slower than 14 steps a second
    context.close()


@browser
def test_where_scripts_are_off_a_picture_and_a_sentence_stand(chromium, table, tmp_path):
    (tmp_path / "page.html").write_text(page_of(SchemeExplorer(table, scheme="10-00-00")), encoding="utf-8")
    context = chromium.new_context(offline=True, java_script_enabled=False)
    page = context.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    assert page.locator("svg[role=img]").is_visible()
    assert page.get_by_text("Scheme 10-00-00: 1 of 6 blocks connected, 95.01% in the supernet.").is_visible()
    context.close()


@browser
def test_it_shows_that_python_works_and_what_went_wrong(page):
    """A model as anywidget gives it, whose kernel answers late, and with an error the second time."""
    page.goto("about:blank")
    css = SchemeExplorer._css
    page.set_content(f"<!doctype html><html lang='en'><style>{css}</style><body><div id='place'></div></body></html>")
    page.evaluate(
        """async ({ source }) => {
            const module = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
            const { default: widget } = await import(module);
            const listeners = {};
            const table = { stages: [2, 1] };
            const state = { name: "live", table, show: ["numbers", "chart"], scheme: "10-0", live: true, answers: {} };
            const on = (event, listener) => (listeners[event] ??= []).push(listener);
            window.put = (key, value) => { state[key] = value; for (const f of listeners[`change:${key}`] ?? []) f(); };
            window.asked = () => state.asked;
            window.answers = () => state.answers;
            const model = { get: (key) => state[key], set: window.put, on, off() {}, save_changes() {} };
            window.end = widget.render({ model, el: document.querySelector("#place") });
        }""",
        {"source": SchemeExplorer._esm},
    )
    answer = "values => put('answers', { ...answers(), ...values })"
    assert page.evaluate("() => asked()") == {"scheme": "10-0", "request": 1}
    assert read_cards(page)["Accuracy in the supernet"][0] == "working …"
    found = {"supernet": 61.25, "extra_parameters": 42, "extra_macs": 7}
    page.evaluate(answer, {"10-0": found})
    assert read_cards(page)["Accuracy in the supernet"] == ["61.25 %", "rank 1 of 1 scored"]
    blocks(page).nth(1).click()
    assert page.evaluate("() => asked()") == {"scheme": "11-0", "request": 2}
    page.evaluate(answer, {"11-0": {"error": "RuntimeError: <b>no</b> memory", "request": 2}})
    alert = page.get_by_role("alert")
    assert alert.inner_text() == "Python could not score 11-0: RuntimeError: <b>no</b> memory"
    assert read_cards(page)["Accuracy in the supernet"][0] == "not scored"
    blocks(page).nth(0).click()
    assert not alert.is_visible()
    assert page.evaluate("() => asked().scheme") == "01-0"
    blocks(page).nth(0).click()  # the failed one is asked for again
    assert page.evaluate("() => asked()") == {"scheme": "11-0", "request": 4}
    page.evaluate(answer, {"11-0": found})
    assert read_cards(page)["Accuracy in the supernet"][1] == "rank 1 of 2 scored"
    blocks(page).nth(1).click()  # known: nobody is asked
    assert page.evaluate("() => asked().request") == 4
    assert page.evaluate("() => location.hash") == ""  # in a notebook the address is not ours
    page.evaluate("() => end()")
    assert page.problems == []


# Python


def test_the_files_are_small(table):
    assert len(SchemeExplorer._esm) < 50_000
    assert "innerHTML" not in SchemeExplorer._esm
    assert TABLES
    for path in TABLES:
        assert path.stat().st_size < 60_000


def test_an_output_has_the_widget_a_page_a_picture_and_a_sentence(table):
    explorer = SchemeExplorer(table, scheme="10-00-00")
    bundle, _ = explorer._repr_mimebundle_()
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == explorer.model_id
    assert bundle["text/plain"] == "Scheme 10-00-00: 1 of 6 blocks connected, 95.01% in the supernet."
    assert bundle["image/svg+xml"] == explorer.draw() and bundle["image/svg+xml"].startswith("<svg")
    assert bundle["text/html"] == SchemeExplorer(table, scheme="10-00-00").to_html()  # the same each time
    assert explorer.model_id not in bundle["text/html"]


def test_python_scores_what_the_page_asks_for_once():
    net, data = tiny_net("se"), tiny_data()
    explorer = SchemeExplorer(net=net, data=data)
    calls = []
    scorer = explorer._scorer
    explorer._scorer = type("Counting", (), {
        "net": scorer.net, "split": scorer.split, "__call__": lambda self, s: calls.append(s) or scorer(s)
    })()  # fmt: skip
    scheme = Scheme.parse("10-01-1")
    for request in (1, 2):
        explorer.asked = {"scheme": str(scheme), "request": request}
    answer = explorer.answers[str(scheme)]
    assert answer["supernet"] == Scorer(net, data)([scheme])[0]
    pruned, backbone = net.prune(scheme), net.prune(Scheme.none(STAGES))
    assert answer["extra_parameters"] == count_parameters(pruned) - count_parameters(backbone)
    shape = (1, 3, *data.image_size)
    assert answer["extra_macs"] == count_macs(pruned.fuse(), shape) - count_macs(backbone.fuse(), shape)
    assert len(calls) == 1
    explorer.scheme = str(scheme)
    assert f"{answer['supernet']:.2f}%" in explorer.describe()


def test_an_error_in_python_goes_to_the_page_and_the_next_request_is_answered():
    explorer = SchemeExplorer(net=tiny_net("se"), data=tiny_data())
    good, explorer._scorer = explorer._scorer, None

    class Broken:
        net, split = good.net, good.split

        def __call__(self, schemes):
            raise RuntimeError("out of memory")

    explorer._scorer = Broken()
    explorer.asked = {"scheme": "10-01-1", "request": 1}
    assert explorer.answers["10-01-1"] == {"error": "RuntimeError: out of memory", "request": 1}
    explorer._scorer = good
    explorer.asked = {"scheme": "10-01-1", "request": 2}
    assert "supernet" in explorer.answers["10-01-1"]
    explorer.asked = {"scheme": "nonsense", "request": 3}
    assert explorer.answers["nonsense"]["error"].startswith("ValueError")
    assert "nonsense" not in explorer.to_html()  # a page has no kernel that could fail


def test_what_a_search_has_scored_is_in_the_table_of_its_supernet():
    net, data = tiny_net("se"), tiny_data()
    found = search(Scorer(net, data), STAGES, SearchConfig(steps=2))
    explorer = SchemeExplorer({"supernet": [0.0] * 32, "note": "kept"}, net=net, data=data, search=found)
    assert explorer.table["supernet"] == found.values and explorer.table["note"] == "kept"
    assert explorer.table["stages"] == list(STAGES) and explorer.table["attention"] == "se"
    assert explorer.live
    assert SchemeExplorer(net=net, data=data).table["supernet"] == {}
    scorer = Scorer(net, data)
    scored = {str(scheme): scorer([scheme])[0] for scheme in Scheme.all_of(STAGES) if str(scheme) not in found.values}
    assert SchemeExplorer(scorer=scorer, search=found).table["supernet"] == scored | found.values
    with pytest.raises(ValueError, match=r"stages must be those of the network, \[2, 2, 1\]"):
        SchemeExplorer({"stages": [2, 2, 2]}, net=net, data=data)


def test_what_a_scorer_has_scored_is_in_the_table():
    scorer = Scorer(tiny_net("se"), tiny_data(), recalibrate=40)
    schemes = list(Scheme.all_of(STAGES))[:5]
    assert SchemeExplorer(scorer=scorer).table["supernet"] == {}
    values = scorer(schemes)
    explorer = SchemeExplorer(scorer=scorer, scheme="11-11-1")
    assert explorer.table["supernet"] == {str(s): v for s, v in zip(schemes, values, strict=True)}
    assert explorer.live and explorer.table["stages"] == list(STAGES)
    explorer.asked = {"scheme": "11-11-1", "request": 1}
    assert explorer.answers["11-11-1"]["supernet"] == scorer([Scheme.full(STAGES)])[0]


def test_a_search_can_be_replayed_without_a_table():
    found = search(lambda asked: [value(s) for s in asked], SMALL, SearchConfig(steps=5))
    explorer = SchemeExplorer(search=found)
    assert explorer.scheme == str(found.scheme)
    assert explorer.table["supernet"] == found.values
    other = search(lambda asked: [value(s) for s in asked], SMALL, SearchConfig(method="random", budget=4))
    with pytest.raises(ValueError, match="'random'"):
        SchemeExplorer(search=other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs a table"),
        ({"table": {"stages": [2, 2], "supernet": [1, 2]}}, "16 entries"),
        ({"table": {"stages": [2, 2], "supernet": {"1-11": 3}}}, "stages of"),
        ({"table": {"stages": [2, 2]}, "name": "a b"}, "name must be letters, digits, - and _, got 'a b'"),
        ({"table": {"stages": [2, 2]}, "show": ["plot"]}, "show must be some of numbers, chart, search, got"),
        ({"table": {"stages": [2, 2]}, "scheme": "111"}, "needs 4 bits"),
        ({"net": object()}, "both `net` and `data`"),
        (
            {"table": {"stages": [2], "supernet": [1, nan, 2, 3]}},
            "'supernet' of scheme 01 must be a finite number, or None where it was not measured, got nan",
        ),
        ({"table": {"stages": [2], "extra_macs": {"10": "7"}}}, "'extra_macs' of scheme 10 must be a finite number"),
        ({"table": {"stages": [2], "alone": {"11": [95.0, nan, 3]}}}, "'alone' of scheme 11 must be a finite number"),
        ({"table": {"stages": [2], "time": {"11": 0.2}}}, "'time' of scheme 11 must be a list of numbers, got 0.2"),
        ({"table": {"stages": [2], "time": {"1-1": [0.2]}}}, "stages of"),
        ({"table": {"stages": [2, 2], "search": {"schemes": [[3]]}}}, "scheme"),
    ],
)
def test_bad_arguments_are_answered_with_a_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        SchemeExplorer(**options)


def test_a_table_takes_numbers_of_numpy_and_torch_and_keeps_them_as_pythons():
    numbers = np.array([1, 2, 3, 4.5], dtype=np.float32)
    costs = {"10": torch.tensor(7), "11": np.int64(9), "01": None}
    explorer = SchemeExplorer({"stages": np.array([2]), "supernet": numbers, "extra_macs": costs})
    assert explorer.table["supernet"] == [1.0, 2.0, 3.0, 4.5]
    assert explorer.table["extra_macs"] == {"10": 7, "11": 9, "01": None}
    assert json.loads(json.dumps(explorer.table)) == explorer.table


@pytest.mark.parametrize("kind", [Tangle, PreNet])
def test_it_takes_any_network_of_the_contract(kind):
    """Networks written by hand, of which one is no chain of blocks."""
    net = handwritten(kind)
    explorer = SchemeExplorer(net=net, data=tiny_data(), scheme="10-01")
    assert explorer.table["stages"] == [2, 2] and explorer.table["attention"] == "se"
    explorer.asked = {"scheme": "10-01", "request": 1}
    answer = explorer.answers["10-01"]
    assert answer["supernet"] == Scorer(net, tiny_data())([Scheme.parse("10-01")])[0]
    per_module = count_parameters(net.attention[0])
    assert answer["extra_parameters"] == 2 * per_module
    assert "error" not in answer
