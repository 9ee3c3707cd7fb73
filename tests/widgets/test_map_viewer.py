"""The map viewer in a headless Chromium without a network: what it draws is what `grad_cam` computed."""

from __future__ import annotations

import copy
import io
import json
import random
from base64 import b64decode

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from axe_playwright_python.sync_playwright import Axe
from handwritten import PreNet, Tangle, handwritten
from matplotlib import colormaps
from PIL import Image
from tiny import STAGES, tiny_net

from ean_lib import Scheme, grad_cam
from ean_lib.widgets import MapViewer

pytestmark = pytest.mark.browser
CLASSES = ["cat", "dog", "<b id=hostile>bird</b>"]
LABELS = [2, 0]


@pytest.fixture(scope="module")
def networks():
    nets = {"backbone": tiny_net(None), "Share": tiny_net("se")}
    return {name: net.eval() for name, net in nets.items()}


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def viewer(networks, images):
    classes = networks["Share"](images).shape[1]
    names = (CLASSES + [f"class {i}" for i in range(classes)])[:classes]
    return MapViewer(networks, images, images, LABELS, names)


def decode(address: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(b64decode(address.split(",", 1)[1]))))


@pytest.fixture
def show(page, viewer, tmp_path):
    def open_page(theme: str = "light"):
        start = f'<!doctype html><html lang="en" data-theme="{theme}"><head><meta charset="utf-8"><title>test</title>'
        start += '<link rel="icon" href="data:,"><meta name="viewport" content="width=device-width"></head><body><main>'
        form = viewer._repr_mimebundle_()[0]["text/html"]
        (tmp_path / "page.html").write_text(f"{start}{form}</main></body></html>", encoding="utf-8")
        page.goto((tmp_path / "page.html").as_uri())
        page.wait_for_selector(".ean-maps[data-drawn]")
        return page

    yield open_page
    assert page.outside == []
    assert page.problems == []


def shown(page) -> dict:
    return json.loads(page.locator(".ean-maps").get_attribute("data-drawn"))


def ask(page, **wanted: int) -> None:
    """Set the controls as a reader does, and wait until the picture is drawn."""
    for key, value in wanted.items():
        control = page.locator(f".ean-maps [id$='-{key}']")
        kind = "change" if key in ("network", "class") else "input"
        control.evaluate(f"(e, v) => {{ e.value = v; e.dispatchEvent(new Event('{kind}')); }}", value)
    drawn = "w => { const d = JSON.parse(document.querySelector('.ean-maps').dataset.drawn);"
    page.wait_for_function(drawn + " return Object.keys(w).every(k => d[k] === w[k]); }", arg=wanted)


def canvas(page) -> np.ndarray:
    """The pixels drawn, (H, W, 3)."""
    read = "c => [c.height, c.width, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    height, width, *data = page.locator(".ean-maps canvas").evaluate(read)
    return np.array(data).reshape(height, width, 4)[..., :3]


def test_the_stored_maps_are_those_of_grad_cam(viewer, networks, images):
    classes = len(viewer.content["classes"])
    for entry, net in zip(viewer.content["networks"], networks.values(), strict=True):
        layers = [block for stage in net.stage_modules() for block in stage.blocks]
        assert len(entry["blocks"]) == len(layers) == sum(STAGES)
        for n, address in enumerate(entry["maps"]):
            stored = decode(address)
            for b, layer in enumerate(layers):
                for c in range(classes):
                    cam = F.avg_pool2d(grad_cam(net, images[n : n + 1], [c], layer), 2)[0]
                    part = stored[8 * b : 8 * b + 8, 8 * c : 8 * c + 8]
                    np.testing.assert_allclose(part, 255 * cam.numpy(), atol=0.51)


def test_connected_blocks_are_named_so(images):
    net = tiny_net("se").prune(Scheme.parse([i == 1 for i in range(sum(STAGES))], STAGES))
    entry = MapViewer({"EAN": net}, images, images, LABELS, ["a"] * net(images).shape[1]).content["networks"][0]
    assert [place for place in entry["blocks"] if place.endswith(", connected")] == ["stage 1, block 2, connected"]


def test_nothing_of_the_map_is_the_picture_and_all_of_it_the_map_asked_for(show, viewer):
    page = show()
    inferno = colormaps["inferno"](np.arange(256))[:, :3] * 255
    content, choose = viewer.content, random.Random(0)
    ask(page, blend=0)
    picture = decode(content["pictures"][0]["address"])
    np.testing.assert_array_equal(canvas(page), picture.repeat(8, axis=0).repeat(8, axis=1))
    for _ in range(12):
        network, block = choose.randrange(2), choose.randrange(sum(STAGES))
        asked = choose.randrange(len(content["classes"]))
        ask(page, network=network, block=block, blend=100, **{"class": asked})
        stored = decode(content["networks"][network]["maps"][0])[8 * block : 8 * block + 8, 8 * asked : 8 * asked + 8]
        drawn = canvas(page).reshape(8, 16, 8, 16, 3)[:, 7:9, :, 7:9].mean(axis=(1, 3))  # the middle of each cell
        assert np.abs(drawn - inferno[stored]).mean() < 12


def test_a_thumbnail_shows_the_evidence_for_what_it_is(show, viewer):
    page = show()
    page.locator(".m-thumbnails button").nth(1).click()
    page.wait_for_function("() => JSON.parse(document.querySelector('.ean-maps').dataset.drawn).picture === 1")
    assert shown(page)["class"] == LABELS[1]
    assert page.locator(".m-thumbnails button").nth(1).get_attribute("aria-pressed") == "true"


def test_the_keys_move_through_the_blocks(show, viewer):
    page = show()
    page.get_by_role("slider", name="After").focus()
    page.keyboard.press("Home")
    page.wait_for_function("() => JSON.parse(document.querySelector('.ean-maps').dataset.drawn).block === 0")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => JSON.parse(document.querySelector('.ean-maps').dataset.drawn).block === 1")
    assert (
        page.get_by_role("slider", name="After").get_attribute("aria-valuetext")
        == viewer.content["networks"][1]["blocks"][1]
    )


def test_names_in_the_data_do_not_become_html(show):
    page = show()
    assert page.locator("#hostile").count() == 0
    assert page.locator("option", has_text="<b id=hostile>").count() == 1


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_and_a_phone_shows_all(show, page, theme):
    page.set_viewport_size({"width": 360, "height": 800})
    show(theme)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    serious = [v["id"] for v in Axe().run(page).response["violations"] if v["impact"] in {"serious", "critical"}]
    assert serious == []


def test_what_does_not_fit_together_is_refused(networks, images):
    with pytest.raises(ValueError, match="2 inputs, 2 pictures and 1 labels"):
        MapViewer(networks, images, images, [0], CLASSES)
    with pytest.raises(ValueError, match="name must be letters, digits, - and _, got '<p>'"):
        MapViewer(networks, images, images, LABELS, CLASSES, name="<p>")


def test_networks_stay_in_the_mode_they_were_in_also_after_an_error(networks, images):
    net = tiny_net("se").train()
    net.fc.eval()
    modes = [module.training for module in net.modules()]
    classes = ["a"] * net(images).shape[1]
    MapViewer({"a": net}, images, images, LABELS, classes)
    assert [module.training for module in net.modules()] == modes
    with pytest.raises(ValueError, match="the images' shape"):
        MapViewer({"a": net}, images[:, :2], images, LABELS, classes)
    assert [module.training for module in net.modules()] == modes


def test_arrays_of_numpy_and_networks_of_other_types_are_taken(networks, images):
    net = networks["Share"]
    classes = ["a"] * net(images).shape[1]
    expected = MapViewer({"a": net}, images, images, LABELS, classes).content["networks"][0]
    arrays = MapViewer({"a": net}, images.numpy(), images.numpy(), np.array(LABELS), classes).content["networks"][0]
    assert arrays == expected
    double = copy.deepcopy(net).double()
    assert (
        MapViewer({"a": double}, images, images, LABELS, classes).content["networks"][0]["answers"]
        == expected["answers"]
    )


def test_grey_pictures_are_shown_in_grey(networks, images):
    classes = ["a"] * networks["Share"](images).shape[1]
    viewer = MapViewer(networks, images, images[:, :1], LABELS, classes)
    shown = decode(viewer.content["pictures"][0]["address"])
    np.testing.assert_array_equal(shown, (255 * images[0, :1]).round().expand(3, -1, -1).permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pictures": torch.full((2, 3, 16, 16), 1.2)}, "from 0 to 1, got torch.float32 from 1.2 to 1.2; divide"),
        ({"pictures": torch.full((2, 3, 16, 16), -0.5)}, "numbers from 0 to 1, got torch.float32 from -0.5 to -0.5"),
        ({"pictures": torch.full((2, 3, 16, 16), 200, dtype=torch.uint8)}, "got torch.uint8 from 200 to 200"),
        ({"pictures": torch.full((2, 3, 16, 16), torch.nan)}, "numbers from 0 to 1"),
        ({"pictures": torch.rand(2, 16, 16)}, r"the pictures' shape must be \(pictures, 3, height, width\)"),
        ({"pictures": torch.rand(2, 4, 16, 16)}, "the pictures' shape"),
        ({"labels": [0, 4]}, r"labels must be one class index per picture, in 0\.\.3"),
        ({"labels": [0, -1]}, "labels must be one class index per picture"),
        ({"labels": ["a", "b"]}, "labels must be one class index per picture, .* got \\['a', 'b'\\]"),
        ({"networks": {"plain": torch.nn.Conv2d(3, 4, 1)}}, "'plain' must be a Network of ean_lib, got 'Conv2d'"),
        ({"networks": [tiny_net("se")]}, "the networks to view must be at least one, by name"),
        ({"labels": [0.5, 1.0]}, "labels must be one class index per picture"),
        ({"class_names": ["a", "b", "c"]}, "'backbone' tells 4 classes apart, but 3 names are given"),
        ({"networks": {}}, "the networks to view must be at least one, by name"),
    ],
)
def test_plausible_mistakes_are_answered_with_a_sentence(networks, images, changes, message):
    right = {"networks": networks, "x": images, "pictures": images, "labels": LABELS, "class_names": [*"abcd"]}
    changed = right | changes
    if "class_names" in changes:
        changed["labels"] = [0, 1]
    with pytest.raises(ValueError, match=message):
        MapViewer(**changed)


@pytest.mark.parametrize("kind", [Tangle, PreNet])
def test_it_takes_any_network_of_the_contract(kind, images):
    """Networks written by hand, of which one is no chain of blocks."""
    net = handwritten(kind)
    entry = MapViewer({"mine": net}, images, images, LABELS, [*"abcd"]).content["networks"][0]
    assert entry["blocks"][1] == "stage 1, block 2, connected" and len(entry["blocks"]) == 4
    for n, address in enumerate(entry["maps"]):
        stored = decode(address)
        for b, layer in enumerate(net.block_modules()):
            for c in range(4):
                cam = F.avg_pool2d(grad_cam(net, images[n : n + 1], [c], layer), 2)[0]
                part = stored[8 * b : 8 * b + 8, 8 * c : 8 * c + 8]
                np.testing.assert_allclose(part, 255 * cam.numpy(), atol=0.51)
